"""Reads a namespace with `ip` and `bridge` in the format of a report: the reference for the collectors.

Each function returns one member of a report with all its columns, so that a comparison covers every one.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from support.netns import Namespace

FAMILIES = {4: "inet", 6: "inet6"}
# Kinds of links with two ends. Not imported from the agent, which might lack one.
TUNNELS = {
    *("vxlan", "geneve", "ipip", "sit", "ip6tnl", "vti", "vti6"),
    *("gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan"),
}

Entries = list[dict[str, Any]]


def stable_reading(
    namespace: Namespace, read: Callable[[], dict[str, Any]]
) -> tuple[dict[str, Entries], dict[str, Any]]:
    """Return all tables from `ip`, and the result of `read`, while the output of `ip` did not change.

    Counters and states of links change by themselves, in particular after links were created.
    """
    for _ in range(20):
        before, found = all_tables(namespace), read()
        if all_tables(namespace) == before:
            return before, found
    raise AssertionError("the tables changed during each of 20 readings")


def all_tables(namespace: Namespace) -> dict[str, Entries]:
    """Return all tables from `ip`, by the name of the member in a report."""
    tables = (interfaces, address_peers, address_marks, tunnels, routes, rules, policy_routes, neighbours)
    return {table.__name__: table(namespace) for table in tables}


# --- Links, addresses, tunnels


def interfaces(namespace: Namespace) -> Entries:
    """Return all links from `ip link`, `ip address` and the ethtool ioctl, in the kernel's order."""
    listed = namespace.listed("-statistics", "link")
    indexes = {link["ifname"]: link["ifindex"] for link in listed}
    addresses = {link["ifname"]: link["addr_info"] for link in namespace.listed("address")}
    permanent = _permanent_addresses(namespace)
    return [_interface(link, indexes, addresses.get(link["ifname"], []), permanent) for link in listed]


def _interface(link: dict[str, Any], indexes: dict[str, int], addresses: Entries, permanent: dict[str, str]) -> Any:
    info, stats = link.get("linkinfo", {}), link["stats64"]
    is_vlan = info.get("info_kind") == "vlan"
    return {
        "index": link["ifindex"],
        "name": link["ifname"],
        "kind": info.get("info_kind"),
        # ip derives M-DOWN from the state of the other end.
        "flags": [flag for flag in link["flags"] if flag != "M-DOWN"],
        "operstate": link["operstate"],
        "mtu": link["mtu"],
        "address": link.get("address"),
        "addresses": [f"{address['local']}/{address['prefixlen']}" for address in addresses],
        "master": link.get("master"),
        "link": link.get("link"),
        **{f"{way}_{unit}": stats[way][unit] for unit in ("bytes", "errors", "dropped") for way in ("rx", "tx")},
        "permanent_address": _as_ip_shows(permanent.get(str(link["ifindex"])), link["link_type"]),
        "link_index": link.get("link_index") or indexes.get(link.get("link", "")),
        "link_netnsid": link.get("link_netnsid"),
        "vlan_id": info["info_data"]["id"] if is_vlan else None,
        "slave_kind": info.get("info_slave_kind"),
        "slave_state": info.get("info_slave_data", {}).get("state"),
    }


def address_peers(namespace: Namespace) -> Entries:
    """Return the addresses with a remote end, which `ip address` shows as `peer`."""
    return [
        {
            "interface": link["ifname"],
            "address": f"{address['local']}/{address['prefixlen']}",
            "peer": f"{address['address']}/{address['prefixlen']}",
        }
        for link, address in _addresses(namespace)
        if "address" in address
    ]


_MARKS = ("secondary", "temporary", "tentative", "deprecated", "optimistic", "dadfailed")


def address_marks(namespace: Namespace) -> Entries:
    """Return the addresses with one of the flags that a report marks."""
    return [
        {
            "interface": link["ifname"],
            "address": f"{address['local']}/{address['prefixlen']}",
            "marks": [mark for mark in _MARKS if address.get(mark)],
        }
        for link, address in _addresses(namespace)
        if any(address.get(mark) for mark in _MARKS)
    ]


def _addresses(namespace: Namespace) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return all addresses with their links, IPv4 first, as the kernel lists them."""
    return [
        (link, address)
        for family in FAMILIES.values()
        for link in namespace.listed("address")
        for address in link["addr_info"]
        if address["family"] == family
    ]


# ETHTOOL_GPERMADDR: `ip` shows a permanent address only if it differs from the current one.
_QUERY_ETHTOOL = """
import array, fcntl, glob, json, socket, struct
found = {}
with socket.socket(type=socket.SOCK_DGRAM) as query:
    for path in glob.glob(b"/sys/class/net/*/ifindex"):
        name, index = path.split(b"/")[4], int(open(path).read())
        answer = array.array("B", struct.pack("II", 0x20, 32) + bytes(32))
        fcntl.ioctl(query, 0x8946, struct.pack("16sP16x", name, answer.buffer_info()[0]))
        data = answer.tobytes()
        address = data[8 : 8 + int.from_bytes(data[4:8], "little")]
        if any(address):
            found[index] = address.hex(":")
print(json.dumps(found))
"""


def _permanent_addresses(namespace: Namespace) -> dict[str, str]:
    output = subprocess.check_output(namespace.command(sys.executable, "-c", _QUERY_ETHTOOL))
    found: dict[str, str] = json.loads(output)
    return found


def _as_ip_shows(address: str | None, link_type: str) -> str | None:
    if address is None or link_type not in ("ipip", "sit", "gre", "gre6", "tunnel6"):
        return address
    return str(ipaddress.ip_address(bytes.fromhex(address.replace(":", ""))))


def tunnels(namespace: Namespace) -> Entries:
    """Return the ends of tunnels from `ip link`, with the further remotes of a vxlan from `bridge fdb`."""
    return [
        {
            "interface": link["ifname"],
            "kind": link["linkinfo"]["info_kind"],
            **_ends(link["linkinfo"]["info_data"]),
            # ip looks up the index of a link in another namespace in this one.
            **({"link": None} if "link_netnsid" in link else {}),
            "remotes": _flooded(namespace, link),
            "peer_id": None,
            "external": link["linkinfo"]["info_data"].get("external", False),
        }
        for link in namespace.listed("link")
        if link.get("linkinfo", {}).get("info_kind") in TUNNELS
    ]


def _ends(data: dict[str, Any]) -> dict[str, Any]:
    """Return the ends of a tunnel; `ip` names IPv6 ends and groups separately, and prints keys as IPv4 addresses."""

    def one(*names: str) -> Any:
        found = next((data[name] for name in names if name in data), None)
        return None if found in ("any", "0.0.0.0", "::") else found

    keys = {name: data.get(name) for name in ("ikey", "okey")}
    return {
        "local": one("local", "local6"),
        "remote": one("remote", "remote6", "group", "group6"),
        "id": data.get("id"),
        **{name: None if key is None else int(ipaddress.ip_address(key)) for name, key in keys.items()},
        "port": data.get("port"),
        "ttl": data.get("ttl", 0),
        "fwmark": int(data.get("fwmark", "0"), 0),
        "link": data.get("link"),
    }


def _flooded(namespace: Namespace, link: dict[str, Any]) -> list[str]:
    if link["linkinfo"]["info_kind"] != "vxlan":
        return []
    command = ["bridge", "-n", namespace.name, "-json", "fdb", "show", "dev", link["ifname"]]
    entries = json.loads(subprocess.check_output(command) or b"[]")
    found = [entry["dst"] for entry in entries if entry["mac"] == "00:00:00:00:00:00"]
    return [each for each in found if each != _ends(link["linkinfo"]["info_data"])["remote"]]


# --- Routes, rules, neighbours


def routes(namespace: Namespace) -> Entries:
    """Return the main table of both families from `ip route`, one entry for each next hop."""
    return [
        _route(route, hop, version)
        for version in FAMILIES
        for route in namespace.listed(f"-{version}", "route", "show", "table", "main")
        for hop in route.get("nexthops", [route])
    ]


def _route(route: dict[str, Any], hop: dict[str, Any], version: int) -> dict[str, Any]:
    return {
        "destination": _destination(route["dst"], version),
        "gateway": hop.get("gateway") or hop.get("via", {}).get("host"),
        "interface": hop.get("dev"),
        "source": route.get("prefsrc"),
        "metric": route.get("metric", 0),
        "protocol": route["protocol"],
        "type": route["type"],
    }


def _destination(text: str, version: int) -> str:
    default = "0.0.0.0/0" if version == 4 else "::/0"
    return str(ipaddress.ip_network(default if text == "default" else text))


def policy_routes(namespace: Namespace) -> Entries:
    """Return the default routes of all tables in `ip rule` except main and local."""
    found = {
        (version, table): None
        for version in FAMILIES
        for rule in namespace.listed(f"-{version}", "rule")
        for table in _tables(namespace, rule)
    }
    return [
        {"table": table, **_route(route, hop, version)}
        for version, table in found
        for route in _default_routes(namespace, version, table)
        for hop in route.get("nexthops", [route])
    ]


def _tables(namespace: Namespace, rule: dict[str, Any]) -> list[int]:
    if "l3mdev" in rule:
        links = namespace.listed("link", "show", "type", "vrf")
        return [link["linkinfo"]["info_data"]["table"] for link in links]
    table = _table(rule.get("table", "main"))
    return [] if table in (254, 255) else [table]


def _default_routes(namespace: Namespace, version: int, table: int) -> Entries:
    words = (f"-{version}", "route", "show", "table", str(table))
    # ip fails for a table without routes.
    return [each for each in namespace.listed(*words) if each["dst"] == "default"] if namespace.has(*words) else []


def rules(namespace: Namespace) -> Entries:
    """Return the rules of both families from `ip rule`."""
    return [
        _rule(family, rule, numeric)
        for version, family in FAMILIES.items()
        for rule, numeric in zip(
            namespace.listed(f"-{version}", "rule"), namespace.listed("-Numeric", f"-{version}", "rule"), strict=True
        )
    ]


def _rule(family: str, rule: dict[str, Any], numeric: dict[str, Any]) -> dict[str, Any]:
    return {
        "family": family,
        "priority": rule["priority"],
        "action": "goto" if "goto" in rule else "nop" if "nop" in rule else rule.get("action", "lookup"),
        "table": _table(rule.get("table", "0")),
        "source": _prefix(rule, "src"),
        "destination": _prefix(rule, "dst"),
        "fwmark": int(rule["fwmark"], 0) if "fwmark" in rule else None,
        # ip omits a mask of all bits.
        "fwmask": int(rule.get("fwmask", "0xffffffff"), 0) if "fwmark" in rule else None,
        "iif": rule.get("iif"),
        "oif": rule.get("oif"),
        "inverted": "not" in rule,
        "suppress_prefixlength": rule.get("suppress_prefixlen"),
        "goto": rule.get("goto"),
        "other": [text for text in map(_other_selector, _OTHERS, [numeric] * len(_OTHERS)) if text is not None],
    }


def _prefix(rule: dict[str, Any], name: str) -> str | None:
    if rule.get(name, "all") == "all":
        return None
    return str(ipaddress.ip_network(f"{rule[name]}/{rule[f'{name}len']}" if f"{name}len" in rule else rule[name]))


# The selectors without a column: the name in a report, and the value in the output of `ip -Numeric`.
_OTHERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "tos": lambda rule: rule.get("tos"),
    "ipproto": lambda rule: rule["ipproto"].removeprefix("ipproto-") if "ipproto" in rule else None,
    "sport": lambda rule: rule.get("sport", _range(rule, "sport_start", "sport_end")),
    "dport": lambda rule: rule.get("dport", _range(rule, "dport_start", "dport_end")),
    "uidrange": lambda rule: _range(rule, "uid_start", "uid_end"),
    "l3mdev": lambda rule: "" if "l3mdev" in rule else None,
    "tun_id": lambda rule: rule.get("tun_id"),
    "realms": lambda rule: "/".join(rule[name] for name in ("flow_from", "flow_to") if name in rule) or None,
    "suppress_ifgroup": lambda rule: rule.get("suppress_ifgroup"),
}


def _range(rule: dict[str, Any], first: str, last: str) -> str | None:
    return f"{rule[first]}-{rule[last]}" if first in rule else None


def _other_selector(word: str, rule: dict[str, Any]) -> str | None:
    value = _OTHERS[word](rule)
    return None if value is None else f"{word} {value}".strip()


def neighbours(namespace: Namespace) -> Entries:
    """Return the neighbours of both families from `ip neighbour`."""
    return [
        {
            "destination": neighbour["dst"],
            "address": neighbour.get("lladdr"),
            "interface": neighbour["dev"],
            "state": "|".join(neighbour["state"]),
        }
        for neighbour in namespace.listed("neighbour")
    ]


# --- Lookups


def lookup(namespace: Namespace, reported: dict[str, Any], *words: str) -> dict[str, Any]:
    """Return the answer of `ip route get` for a reported lookup, with these words after its destination and mark."""
    command = ["ip", "-n", namespace.name, "-json", "-details", "route", "get", reported["destination"]]
    command += ["mark", str(reported["fwmark"]), *words]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    about = {name: reported[name] for name in ("purpose", "tunnel", "destination", "fwmark")}
    if answer.returncode:
        error = answer.stderr.removeprefix("RTNETLINK answers: ").strip()
        return about | dict.fromkeys(("interface", "gateway", "source", "mtu", "table")) | {"error": error}
    (route,) = json.loads(answer.stdout)
    (link,) = namespace.listed("link", "show", "dev", route["dev"])
    source = dict(zip(words[::2], words[1::2], strict=True)).get("from")
    return about | {
        "interface": route["dev"],
        "gateway": route.get("gateway"),
        "source": source or route.get("prefsrc"),
        "mtu": route.get("metrics", [{}])[0].get("mtu", link["mtu"]),
        "table": _table(route.get("table", "main")),
        "error": None,
    }


def lookup_words(tunnel: dict[str, Any]) -> tuple[str, ...]:
    """Return the arguments of `ip route get` that describe the outer packets of a tunnel, besides the destination."""
    words = {"from": tunnel.get("local"), "oif": tunnel.get("link"), "dport": tunnel.get("port")}
    given = [word for name, value in words.items() if value is not None for word in (name, str(value))]
    return (*given, "ipproto", "17") if "dport" in given else tuple(given)


def _table(name: str) -> int:
    return {"local": 255, "main": 254, "default": 253}.get(name) or int(name)
