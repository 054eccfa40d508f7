"""The judge of collectors: all that `ip` and `bridge` say of a namespace, in the words of a report.

May live here: one function for each member of a report, which gives every column of it, so that a comparison leaves
none out. Not here: what a test expects beyond that.
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
# Of links with two ends; not asked of the agent, which might have forgotten one.
TUNNELS = {
    *("vxlan", "geneve", "ipip", "sit", "ip6tnl", "vti", "vti6"),
    *("gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan"),
}

Said = list[dict[str, Any]]


def agreed(namespace: Namespace, read: Callable[[], dict[str, Any]]) -> tuple[dict[str, Said], dict[str, Any]]:
    """Return what `ip` says of every table and what was read, at a moment at which `ip` said it before and after.

    Counters and states of links move by themselves, after links were made above all.
    """
    for _ in range(20):
        before, found = everything(namespace), read()
        if everything(namespace) == before:
            return before, found
    raise AssertionError("it never stood still")


def everything(namespace: Namespace) -> dict[str, Said]:
    """What `ip` says of all tables, by the member of the report that tells them."""
    tables = (interfaces, tunnels, routes, rules, policy_routes, neighbours)
    return {table.__name__: table(namespace) for table in tables}


# --- Links, addresses, tunnels


def interfaces(namespace: Namespace) -> Said:
    """What `ip link`, `ip address` and ethtool's ioctl say, of every link, in the kernel's order."""
    listed = namespace.listed("-statistics", "link")
    indexes = {link["ifname"]: link["ifindex"] for link in listed}
    addresses = {link["ifname"]: link["addr_info"] for link in namespace.listed("address")}
    permanent = _permanent_addresses(namespace)
    return [_interface(link, indexes, addresses.get(link["ifname"], []), permanent) for link in listed]


def _interface(link: dict[str, Any], indexes: dict[str, int], addresses: Said, permanent: dict[str, str]) -> Any:
    info, stats = link.get("linkinfo", {}), link["stats64"]
    is_vlan = info.get("info_kind") == "vlan"
    return {
        "index": link["ifindex"],
        "name": link["ifname"],
        "kind": info.get("info_kind"),
        # ip derives M-DOWN from the other end's state.
        "flags": [flag for flag in link["flags"] if flag != "M-DOWN"],
        "operstate": link["operstate"],
        "mtu": link["mtu"],
        "address": link.get("address"),
        "addresses": [f"{address['local']}/{address['prefixlen']}" for address in addresses],
        "master": link.get("master"),
        "link": link.get("link"),
        **{f"{way}_{what}": stats[way][what] for what in ("bytes", "errors", "dropped") for way in ("rx", "tx")},
        "permanent_address": _as_ip_shows(permanent.get(str(link["ifindex"])), link["link_type"]),
        "link_index": link.get("link_index") or indexes.get(link.get("link", "")),
        "link_netnsid": link.get("link_netnsid"),
        "vlan_id": info["info_data"]["id"] if is_vlan else None,
        "slave_kind": info.get("info_slave_kind"),
        "slave_state": info.get("info_slave_data", {}).get("state"),
    }


# ETHTOOL_GPERMADDR: `ip` shows a permanent address only where it is another than the present one.
_ASK_ETHTOOL = """
import array, fcntl, glob, json, socket, struct
found = {}
with socket.socket(type=socket.SOCK_DGRAM) as asked:
    for path in glob.glob(b"/sys/class/net/*/ifindex"):
        name, index = path.split(b"/")[4], int(open(path).read())
        answer = array.array("B", struct.pack("II", 0x20, 32) + bytes(32))
        fcntl.ioctl(asked, 0x8946, struct.pack("16sP16x", name, answer.buffer_info()[0]))
        said = answer.tobytes()
        address = said[8 : 8 + int.from_bytes(said[4:8], "little")]
        if any(address):
            found[index] = address.hex(":")
print(json.dumps(found))
"""


def _permanent_addresses(namespace: Namespace) -> dict[str, str]:
    said = subprocess.check_output(namespace.command(sys.executable, "-c", _ASK_ETHTOOL))
    found: dict[str, str] = json.loads(said)
    return found


def _as_ip_shows(address: str | None, link_type: str) -> str | None:
    if address is None or link_type not in ("ipip", "sit", "gre", "gre6", "tunnel6"):
        return address
    return str(ipaddress.ip_address(bytes.fromhex(address.replace(":", ""))))


def tunnels(namespace: Namespace) -> Said:
    """What `ip link` says of the ends of tunnels, and `bridge fdb` of the further remotes of a vxlan."""
    return [
        {
            "interface": link["ifname"],
            "kind": link["linkinfo"]["info_kind"],
            **_ends(link["linkinfo"]["info_data"]),
            # ip looks for the number of a link in another namespace in this one.
            **({"link": None} if "link_netnsid" in link else {}),
            "remotes": _flooded(namespace, link),
            "peer_id": None,
        }
        for link in namespace.listed("link")
        if link.get("linkinfo", {}).get("info_kind") in TUNNELS
    ]


def _ends(data: dict[str, Any]) -> dict[str, Any]:
    """What `ip` says of a tunnel; it names IPv6 ends and a group apart, and keys as IPv4 addresses."""

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


def routes(namespace: Namespace) -> Said:
    """What `ip route` says of the main table of both families, one for each next hop."""
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


def policy_routes(namespace: Namespace) -> Said:
    """What `ip route` says of the default routes of the tables that `ip rule` names, main and local aside."""
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


def _default_routes(namespace: Namespace, version: int, table: int) -> Said:
    words = (f"-{version}", "route", "show", "table", str(table))
    # ip fails where a table has no route yet.
    return [each for each in namespace.listed(*words) if each["dst"] == "default"] if namespace.has(*words) else []


def rules(namespace: Namespace) -> Said:
    """What `ip rule` says of both families."""
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
        "source": _selected(rule, "src"),
        "destination": _selected(rule, "dst"),
        "fwmark": int(rule["fwmark"], 0) if "fwmark" in rule else None,
        # ip leaves a mask of all bits out.
        "fwmask": int(rule.get("fwmask", "0xffffffff"), 0) if "fwmark" in rule else None,
        "iif": rule.get("iif"),
        "oif": rule.get("oif"),
        "inverted": "not" in rule,
        "suppress_prefixlength": rule.get("suppress_prefixlen"),
        "goto": rule.get("goto"),
        "other": [shown for shown in map(_shown, _OTHERS, [numeric] * len(_OTHERS)) if shown is not None],
    }


def _selected(rule: dict[str, Any], which: str) -> str | None:
    if rule.get(which, "all") == "all":
        return None
    return str(ipaddress.ip_network(f"{rule[which]}/{rule[f'{which}len']}" if f"{which}len" in rule else rule[which]))


# Each selector that has no column of its own: its word in a report, and what of `ip -Numeric` says it.
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


def _shown(word: str, rule: dict[str, Any]) -> str | None:
    value = _OTHERS[word](rule)
    return None if value is None else f"{word} {value}".strip()


def neighbours(namespace: Namespace) -> Said:
    """What `ip neighbour` says of both families."""
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


def lookup(namespace: Namespace, told: dict[str, Any], *words: str) -> dict[str, Any]:
    """What `ip route get` says to the same question, with these words beside its destination and mark."""
    command = ["ip", "-n", namespace.name, "-json", "-details", "route", "get", told["destination"]]
    command += ["mark", str(told["fwmark"]), *words]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    about = {name: told[name] for name in ("purpose", "tunnel", "destination", "fwmark")}
    if answer.returncode:
        error = answer.stderr.removeprefix("RTNETLINK answers: ").strip()
        return about | dict.fromkeys(("interface", "gateway", "source", "mtu", "table")) | {"error": error}
    (said,) = json.loads(answer.stdout)
    (link,) = namespace.listed("link", "show", "dev", said["dev"])
    source = dict(zip(words[::2], words[1::2], strict=True)).get("from")
    return about | {
        "interface": said["dev"],
        "gateway": said.get("gateway"),
        "source": source or said.get("prefsrc"),
        "mtu": said.get("metrics", [{}])[0].get("mtu", link["mtu"]),
        "table": _table(said.get("table", "main")),
        "error": None,
    }


def bound(tunnel: dict[str, Any]) -> tuple[str, ...]:
    """The words that say of a tunnel's packets what a question does beside their destination."""
    words = {"from": tunnel.get("local"), "oif": tunnel.get("link"), "dport": tunnel.get("port")}
    said = [word for name, value in words.items() if value is not None for word in (name, str(value))]
    return (*said, "ipproto", "17") if "dport" in said else tuple(said)


def _table(name: str) -> int:
    return {"local": 255, "main": 254, "default": 253}.get(name) or int(name)
