"""What the collectors read is what `ip` reads, field by field, in a network namespace of the test's own."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.agent_process import AGENT, environment
from support.netns import Namespace, new_namespace
from support.route_get import asked, table

# Kinds that a kernel may lack; what it has is compared.
OPTIONAL = {
    "dummy": ("link", "add", "d0", "type", "dummy"),
    "vlan": ("link", "add", "link", "veth0", "name", "veth0.7", "type", "vlan", "id", "7"),
    "macvlan": ("link", "add", "link", "veth0", "name", "mac0", "type", "macvlan"),
    "bond": ("link", "add", "bond0", "type", "bond", "mode", "active-backup"),
    "vrf": ("link", "add", "vrf0", "type", "vrf", "table", "99"),
    "ifb": ("link", "add", "ifb7", "type", "ifb"),
    "tun": ("tuntap", "add", "dev", "tun0", "mode", "tun"),
    "wireguard": ("link", "add", "wg0", "type", "wireguard"),
}
ENDS = ("local", "192.0.2.1", "remote", "198.51.100.9")
ENDS6 = ("local", "2001:db8::1", "remote", "2001:db8:5::9")
TUNNELS = {
    "vxlan": ("vx0", "id", "42", "dstport", "4789", *ENDS, "dev", "veth0", "ttl", "5"),
    "vxlan to a group": ("vx1", "id", "43", "dstport", "4789", "group", "239.1.1.1", "dev", "veth0"),
    "vxlan over IPv6": ("vx2", "id", "16777215", "dstport", "8472", *ENDS6),
    "vxlan without ends": ("vx3", "id", "44", "dstport", "4790"),
    "geneve": ("gnv0", "id", "7", "remote", "198.51.100.9", "ttl", "9"),
    "geneve over IPv6": ("gnv1", "id", "8", "remote", "2001:db8:5::9"),
    "gre": ("gre7", *ENDS, "dev", "veth0", "ttl", "64"),
    "gre with keys": ("gre8", *ENDS, "ikey", "7", "okey", "4294967295"),
    "gretap": ("gre9", *ENDS, "key", "0", "fwmark", "7"),
    "ip6gre": ("six8", *ENDS6, "okey", "9"),
    "ip6gretap": ("six9", *ENDS6),
    "ipip": ("ipip7", *ENDS, "ttl", "64"),
    "sit": ("sit7", *ENDS),
    "ip6tnl": ("six7", *ENDS6, "mode", "any"),
    "vti": ("vti7", *ENDS, "key", "5"),
    "erspan": ("ers7", *ENDS, "seq", "key", "30", "erspan_ver", "1", "erspan", "123"),
}


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with new_namespace() as made, new_namespace() as other:
        build(made, other)
        wait_until_settled(made)
        yield made


def wait_until_settled(namespace: Namespace) -> None:
    """Wait until links say the same for half a second: bridges and tunnels change their state on their own at first."""
    before: list[tuple[str, str, list[str]]] = []
    for _ in range(20):
        now = [(link["ifname"], link["operstate"], link["flags"]) for link in namespace.listed("link")]
        if now == before:
            return
        before = now
        time.sleep(0.5)


@pytest.fixture(scope="module")
def seen(namespace: Namespace) -> dict[str, Any]:
    """What -sysinfo prints in the namespace."""
    return sysinfo(namespace)


def sysinfo(namespace: Namespace, **settings: str) -> dict[str, Any]:
    command = namespace.command(*AGENT, "-sysinfo")
    found: dict[str, Any] = json.loads(subprocess.check_output(command, env=environment(**settings), timeout=30))
    assert found["failures"] == []
    return found


def build(namespace: Namespace, other: Namespace) -> None:
    namespace.ip("link", "set", "lo", "up")
    namespace.ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    namespace.ip("link", "add", "br0", "type", "bridge")
    namespace.ip("link", "set", "veth1", "master", "br0")
    for name in ("veth0", "veth1", "br0"):
        # Else their link-local addresses come and change while they are compared.
        namespace.ip("link", "set", name, "addrgenmode", "none")
    namespace.ip("link", "add", "out0", "type", "veth", "peer", "name", "in0", "netns", other.name)
    namespace.ip("address", "add", "192.0.2.1/24", "dev", "veth0")
    namespace.ip("address", "add", "198.51.100.1", "peer", "198.51.100.2/32", "dev", "veth0")
    namespace.ip("address", "add", "2001:db8::1/64", "dev", "veth0", "nodad")
    namespace.ip("address", "add", "2001:db8:1::1", "peer", "2001:db8:1::2/128", "dev", "veth0", "nodad")
    namespace.ip("link", "set", "veth0", "mtu", "1420", "up")
    namespace.ip("link", "set", "veth1", "promisc", "on", "up")
    namespace.ip("link", "set", "br0", "up")
    missing = [kind for kind, words in OPTIONAL.items() if not namespace.has(*words)]
    missing += [name for name, words in TUNNELS.items() if not add_tunnel(namespace, name, *words)]
    if missing:
        print("this kernel has no", ", ".join(missing))
    for link, remote in (("vx0", "198.51.100.10"), ("vx3", "198.51.100.11"), ("vx3", "198.51.100.12")):
        fdb(namespace, "append", "00:00:00:00:00:00", "dev", link, "dst", remote)
    fdb(namespace, "append", "02:00:00:00:00:77", "dev", "vx3", "dst", "198.51.100.13")
    add_routes(namespace)
    add_rules(namespace)
    namespace.ip("neighbour", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "veth0")
    namespace.ip("neighbour", "add", "192.0.2.8", "lladdr", "02:00:00:00:00:08", "dev", "veth0", "nud", "stale")
    namespace.ip("neighbour", "add", "2001:db8::9", "lladdr", "02:00:00:00:00:09", "dev", "veth0", "nud", "permanent")
    namespace.ip("neighbour", "add", "192.0.2.7", "lladdr", "02:00:00:00:00:07", "dev", "veth0", "nud", "noarp")
    if namespace.has("link", "show", "bond0"):
        namespace.ip("link", "add", "veth2", "type", "veth", "peer", "name", "veth3")
        namespace.ip("link", "set", "veth2", "master", "bond0")


def fdb(namespace: Namespace, *words: str) -> None:
    subprocess.run(["bridge", "-n", namespace.name, "fdb", *words], check=True, capture_output=True)


def add_tunnel(namespace: Namespace, name: str, link: str, *words: str) -> bool:
    return namespace.has("link", "add", link, "type", name.split(maxsplit=1)[0], *words)


def add_routes(namespace: Namespace) -> None:
    namespace.ip("route", "add", "default", "via", "192.0.2.254", "metric", "100")
    namespace.ip("route", "add", "203.0.113.0/24", "via", "192.0.2.253", "src", "192.0.2.1", "proto", "static")
    namespace.ip("route", "add", "203.0.113.9", "dev", "veth0", "proto", "dhcp")
    namespace.ip("route", "add", "blackhole", "233.252.0.0/24", "proto", "200")
    namespace.ip("route", "add", "198.18.0.0/24", "nexthop", "via", "192.0.2.7", "nexthop", "via", "192.0.2.8")
    namespace.ip("route", "add", "198.18.1.0/24", "via", "inet6", "2001:db8::9", "dev", "veth0")
    namespace.ip("route", "add", "198.18.2.0/24", "dev", "veth0", "table", "77")
    namespace.ip("route", "add", "default", "via", "192.0.2.252", "table", "51820", "mtu", "1300")
    namespace.ip("-6", "route", "add", "default", "via", "2001:db8::fe", "metric", "50", "proto", "ra")
    namespace.ip("-6", "route", "add", "unreachable", "2001:db8:dead::/48")
    namespace.ip("-6", "route", "add", "default", "via", "2001:db8::fd", "table", "51820", "mtu", "1290")
    namespace.ip(
        "-6", "route", "add", "2001:db8:2::/48", "nexthop", "via", "2001:db8::7", "nexthop", "via", "2001:db8::8"
    )


def add_rules(namespace: Namespace) -> None:
    for family in ("-4", "-6"):
        # As wg-quick adds them.
        namespace.ip(family, "rule", "add", "not", "fwmark", "51820", "lookup", "51820", "prio", "200")
        namespace.ip(family, "rule", "add", "table", "main", "suppress_prefixlength", "0", "prio", "199")
    namespace.ip(
        *("rule", "add", "from", "192.0.2.0/24", "to", "198.51.100.7", "iif", "veth0", "oif", "br0"),
        *("lookup", "77", "prio", "90"),
    )
    namespace.ip("-6", "rule", "add", "from", "2001:db8:9::/48", "to", "2001:db8:8::8", "prohibit", "prio", "91")
    namespace.ip("rule", "add", "goto", "199", "fwmark", "0x10/0xf0", "prio", "80")
    namespace.ip("rule", "add", "from", "192.0.2.66", "blackhole", "prio", "70")
    namespace.ip(
        *("rule", "add", "ipproto", "6", "dport", "53", "sport", "100-200", "uidrange", "70000-70001"),
        *("tos", "0x10", "unreachable", "prio", "60"),
    )


# --- Links and addresses


def test_links(namespace: Namespace, seen: dict[str, Any]) -> None:
    listed = namespace.listed("link")
    indexes = {link["ifname"]: link["ifindex"] for link in listed}
    expected = [
        {
            "index": link["ifindex"],
            "name": link["ifname"],
            "kind": link.get("linkinfo", {}).get("info_kind"),
            # ip derives M-DOWN from the other end's state.
            "flags": [flag for flag in link["flags"] if flag != "M-DOWN"],
            "operstate": link["operstate"],
            "mtu": link["mtu"],
            "address": link.get("address"),
            "master": link.get("master"),
            "link": link.get("link"),
            "link_index": link.get("link_index") or indexes.get(link.get("link", "")),
            "link_netnsid": link.get("link_netnsid"),
            "vlan_id": vlan_id(link),
            "slave_kind": link.get("linkinfo", {}).get("info_slave_kind"),
            "slave_state": link.get("linkinfo", {}).get("info_slave_data", {}).get("state"),
        }
        for link in listed
    ]
    assert [{name: link[name] for name in expected[0]} for link in seen["interfaces"]] == expected
    by_name = {link["name"]: link for link in expected}
    assert (by_name["veth1"]["master"], by_name["veth1"]["slave_kind"]) == ("br0", "bridge")
    assert by_name["veth1"]["slave_state"] in ("forwarding", "learning", "listening", "blocking")
    # A number of another namespace names nothing here.
    assert (by_name["out0"]["link"], by_name["out0"]["link_netnsid"]) == (None, 0)
    assert by_name["out0"]["link_index"] is not None


def vlan_id(link: dict[str, Any]) -> int | None:
    info = link.get("linkinfo", {})
    return info["info_data"]["id"] if info.get("info_kind") == "vlan" else None


def test_permanent_addresses(namespace: Namespace, seen: dict[str, Any]) -> None:
    # ip shows one only where it is another than the present one.
    for link, interface in zip(namespace.listed("link"), seen["interfaces"], strict=True):
        assert interface["permanent_address"] in (link.get("permaddr", link.get("address")), None)
        assert "permaddr" not in link or interface["permanent_address"] == link["permaddr"]


def test_addresses(namespace: Namespace, seen: dict[str, Any]) -> None:
    expected = {
        link["ifname"]: [f"{address['local']}/{address['prefixlen']}" for address in link["addr_info"]]
        for link in namespace.listed("address")
    }
    assert {link["name"]: link["addresses"] for link in seen["interfaces"]} == expected
    assert "198.51.100.1/32" in expected["veth0"]


def test_counters_move_with_the_traffic(namespace: Namespace) -> None:
    code = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(bytes(1000), ('127.0.0.1', 9))"
    subprocess.check_call(namespace.command(sys.executable, "-c", code))
    lo = next(link for link in sysinfo(namespace)["interfaces"] if link["name"] == "lo")
    expected = next(link["stats64"] for link in namespace.listed("-statistics", "link") if link["ifname"] == "lo")
    for way in ("rx", "tx"):
        for counter in ("bytes", "errors", "dropped"):
            assert lo[f"{way}_{counter}"] == expected[way][counter]
    assert lo["rx_bytes"] >= 1000


# --- Tunnels


def test_tunnels(namespace: Namespace, seen: dict[str, Any]) -> None:
    # Of erspan the kernel makes one by itself, beside the first gre.
    kinds = {"erspan", *(name.split()[0] for name in TUNNELS)}
    links = [link for link in namespace.listed("link") if link.get("linkinfo", {}).get("info_kind") in kinds]
    assert seen["tunnels"] == [
        {
            "interface": link["ifname"],
            "kind": link["linkinfo"]["info_kind"],
            **ends(link["linkinfo"]["info_data"]),
            "remotes": flooded(namespace, link),
            "peer_id": None,
        }
        for link in links
    ]
    remotes = {tunnel["interface"]: tunnel["remotes"] for tunnel in seen["tunnels"] if tunnel["remotes"]}
    assert remotes == {"vx0": ["198.51.100.10"], "vx3": ["198.51.100.11", "198.51.100.12"]}
    assert {link["ifname"] for link in links} >= {"vx0", "vx1", "vx2", "vx3"}


def flooded(namespace: Namespace, link: dict[str, Any]) -> list[str]:
    """What `bridge fdb` says of where a vxlan sends what it knows no destination for, beside its remote."""
    if link["linkinfo"]["info_kind"] != "vxlan":
        return []
    command = ["bridge", "-n", namespace.name, "-json", "fdb", "show", "dev", link["ifname"]]
    entries = json.loads(subprocess.check_output(command) or b"[]")
    found = [entry["dst"] for entry in entries if entry["mac"] == "00:00:00:00:00:00"]
    return [each for each in found if each != ends(link["linkinfo"]["info_data"])["remote"]]


def ends(data: dict[str, Any]) -> dict[str, Any]:
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


# --- Routes, rules, neighbours


def test_routes(namespace: Namespace, seen: dict[str, Any]) -> None:
    listed = [
        (route, version)
        for version in (4, 6)
        for route in namespace.listed(f"-{version}", "route", "show", "table", "main")
    ]
    expected = [
        {
            "destination": destination(route["dst"], version),
            "gateway": hop.get("gateway") or hop.get("via", {}).get("host"),
            "interface": hop.get("dev"),
            "source": route.get("prefsrc"),
            "metric": route.get("metric", 0),
            "protocol": route["protocol"],
            "type": route["type"],
        }
        for route, version in listed
        for hop in route.get("nexthops", [route])
    ]
    assert seen["routes"] == expected
    assert {"blackhole", "unreachable", "unicast"} <= {route["type"] for route in expected}
    assert "198.18.2.0/24" not in {route["destination"] for route in expected}
    assert "2001:db8::9" in {route["gateway"] for route in expected if route["destination"] == "198.18.1.0/24"}
    assert sum(route["destination"] in ("198.18.0.0/24", "2001:db8:2::/48") for route in expected) == 4


def destination(text: str, version: int) -> str:
    default = "0.0.0.0/0" if version == 4 else "::/0"
    return str(ipaddress.ip_network(default if text == "default" else text))


def test_rules(namespace: Namespace, seen: dict[str, Any]) -> None:
    listed = [("inet", rule) for rule in namespace.listed("-4", "rule")]
    listed += [("inet6", rule) for rule in namespace.listed("-6", "rule")]
    expected = [
        {
            "family": family,
            "priority": rule["priority"],
            "action": "goto" if "goto" in rule else rule.get("action", "lookup"),
            "table": table(rule.get("table", "0")),
            "source": selected(rule, "src"),
            "destination": selected(rule, "dst"),
            "fwmark": int(rule["fwmark"], 0) if "fwmark" in rule else None,
            # ip leaves a mask of all bits out.
            "fwmask": int(rule.get("fwmask", "0xffffffff"), 0) if "fwmark" in rule else None,
            "iif": rule.get("iif"),
            "oif": rule.get("oif"),
            "inverted": "not" in rule,
            "suppress_prefixlength": rule.get("suppress_prefixlen"),
            "goto": rule.get("goto"),
        }
        for family, rule in listed
    ]
    assert [{name: rule[name] for name in expected[0]} for rule in seen["rules"]] == expected
    # A vrf brings a rule of its own.
    others = {rule["priority"]: rule["other"] for rule in seen["rules"] if rule["other"] not in ([], ["l3mdev"])}
    assert others == {60: ["tos 0x10", "ipproto 6", "sport 100-200", "dport 53", "uidrange 70000-70001"]}
    assert len(expected) >= 13


def selected(rule: dict[str, Any], which: str) -> str | None:
    if rule.get(which, "all") == "all":
        return None
    return str(ipaddress.ip_network(f"{rule[which]}/{rule[f'{which}len']}" if f"{which}len" in rule else rule[which]))


def test_neighbours(namespace: Namespace, seen: dict[str, Any]) -> None:
    expected = [
        {
            "destination": neighbour["dst"],
            "address": neighbour.get("lladdr"),
            "interface": neighbour["dev"],
            "state": "|".join(neighbour["state"]),
        }
        for neighbour in namespace.listed("neighbour")
    ]
    assert sorted(map(str, seen["neighbours"])) == sorted(map(str, expected))
    assert {"192.0.2.9", "192.0.2.8", "2001:db8::9"} <= {neighbour["destination"] for neighbour in expected}
    assert "192.0.2.7" not in {neighbour["destination"] for neighbour in seen["neighbours"]}


# --- Which way packets go


@pytest.mark.parametrize("manager", ["198.51.100.200", "2001:db8:77::1", "192.0.2.77", "2001:db8:dead::1"])
def test_lookups_of_tunnels_and_the_manager(namespace: Namespace, manager: str) -> None:
    found = sysinfo(namespace, MANAGER_URL=f"http://{f'[{manager}]' if ':' in manager else manager}:5086")
    tunnels = [
        tunnel for tunnel in found["tunnels"] for remote in (tunnel["remote"], *tunnel["remotes"]) if remote is not None
    ]
    assert [(each["purpose"], each["tunnel"]) for each in found["lookups"]] == [
        *(("tunnel", tunnel["interface"]) for tunnel in tunnels),
        ("manager", None),
    ]
    for lookup, tunnel in zip(found["lookups"], [*tunnels, {}], strict=True):
        assert lookup == asked(namespace, lookup, tunnel.get("local"), tunnel.get("link"))
    # Towards that one there is only an unreachable route.
    assert (found["lookups"][-1]["error"] is None) == (manager != "2001:db8:dead::1")


@pytest.mark.parametrize(
    ("address", "mark", "gateway", "mtu", "in_table"),
    [
        ("198.51.100.7", 51820, "192.0.2.254", 1420, 254),
        ("198.51.100.7", 0, "192.0.2.252", 1300, 51820),
        ("2001:db8:7::7", 51820, "2001:db8::fe", 1420, 254),
        ("2001:db8:7::7", 0, "2001:db8::fd", 1290, 51820),
        ("192.0.2.9", 0, None, 1420, 254),
        ("127.0.0.1", 0, None, 65536, 255),
    ],
)
def test_a_lookup_obeys_the_rules_of_a_full_tunnel(
    namespace: Namespace, address: str, mark: int, gateway: str | None, mtu: int, in_table: int
) -> None:
    found = looked_up(namespace, address, mark)
    assert found == asked(namespace, found, None, None)
    assert (found["gateway"], found["mtu"], found["table"], found["error"]) == (gateway, mtu, in_table, None)


def looked_up(namespace: Namespace, address: str, mark: int) -> dict[str, Any]:
    """The one lookup of a WireGuard endpoint, as the collector makes it in the namespace."""
    code = (
        "import json; from kattila_agent.collectors import links, lookups\n"
        f"asked = [lookups.Question('wireguard', 'wg0', {address!r}, {mark})]\n"
        "interfaces = links.parse(links.read(100, 100)).items\n"
        "print(json.dumps(lookups.parse(*lookups.read(asked), interfaces)[0]._asdict()))"
    )
    found: dict[str, Any] = json.loads(subprocess.check_output(namespace.command(sys.executable, "-c", code)))
    return found
