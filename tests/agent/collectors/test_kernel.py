"""The collectors read the same as `ip`, field by field, in a network namespace made for the test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from kattila_agent.collectors import neighbours
from kattila_protocol.report import Route
from support import iproute2
from support.agent_process import AGENT, environment
from support.iproute2 import Entries
from support.netns import Namespace, new_namespace
from support.runtime import REAL
from support.waiting import PATIENCE_SECONDS

# Kinds that a kernel may lack; those that it has are compared.
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
MEMBERS = (
    *("interfaces", "address_peers", "address_marks", "tunnels", "routes", "rules", "policy_routes", "neighbours"),
)
DEPRECATED = ("preferred_lft", "0", "valid_lft", "9999")
ENDS = ("local", "192.0.2.1", "remote", "198.51.100.9")
ENDS6 = ("local", "2001:db8::1", "remote", "2001:db8:5::9")
TUNNELS = {
    "vxlan": ("vx0", "id", "42", "dstport", "4789", *ENDS, "dev", "veth0", "ttl", "5"),
    "vxlan to a group": ("vx1", "id", "43", "dstport", "4789", "group", "239.1.1.1", "dev", "veth0"),
    "vxlan over IPv6": ("vx2", "id", "16777215", "dstport", "8472", *ENDS6),
    "vxlan without ends": ("vx3", "id", "44", "dstport", "4790"),
    "vxlan without its own ends": ("vx4", "dstport", "4791", "external"),
    "geneve without its own ends": ("gnv2", "dstport", "6082", "external"),
    "gretap without its own ends": ("gre6", "external"),
    "ipip without its own ends": ("ipip6", "external"),
    "ip6gre without its own ends": ("six6", "external"),
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
        yield made


def sysinfo(namespace: Namespace, **settings: str) -> dict[str, Any]:
    command = namespace.command(*AGENT, "-sysinfo")
    found: dict[str, Any] = json.loads(
        subprocess.check_output(command, env=environment(**settings), timeout=PATIENCE_SECONDS)
    )
    assert found["failures"] == []
    return found


def build(namespace: Namespace, other: Namespace) -> None:
    namespace.ip("link", "set", "lo", "up")
    namespace.ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    namespace.ip("link", "add", "br0", "type", "bridge")
    namespace.ip("link", "set", "veth1", "master", "br0")
    for name in ("veth0", "veth1", "br0"):
        # Otherwise their link-local addresses appear and change during the comparison.
        namespace.ip("link", "set", name, "addrgenmode", "none")
    namespace.ip("link", "add", "out0", "type", "veth", "peer", "name", "in0", "netns", other.name)
    namespace.ip("address", "add", "192.0.2.1/24", "dev", "veth0")
    namespace.ip("address", "add", "192.0.2.11/24", "dev", "veth0")
    namespace.ip(
        "address", "add", "2001:db8::11/64", "dev", "veth0", "nodad", "preferred_lft", "0", "valid_lft", "9999"
    )
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
        # The rules that wg-quick adds.
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


# --- The tables


@pytest.fixture(scope="module")
def both(namespace: Namespace) -> tuple[dict[str, Entries], dict[str, Any]]:
    """What `ip` shows, and what -sysinfo shows."""
    return iproute2.stable_reading(namespace, lambda: sysinfo(namespace))


@pytest.fixture(scope="module")
def seen(both: tuple[dict[str, Entries], dict[str, Any]]) -> dict[str, Any]:
    """What -sysinfo shows."""
    return both[1]


@pytest.mark.parametrize("member", MEMBERS)
def test_every_column_is_as_ip_shows_it(both: tuple[dict[str, Entries], dict[str, Any]], member: str) -> None:
    expected, found = both
    assert found[member] == expected[member]


def test_links_show_their_master_and_the_link_below(seen: dict[str, Any]) -> None:
    by_name = {link["name"]: link for link in seen["interfaces"]}
    assert (by_name["veth1"]["master"], by_name["veth1"]["slave_kind"]) == ("br0", "bridge")
    assert by_name["veth1"]["slave_state"] in ("forwarding", "learning", "listening", "blocking")
    assert "198.51.100.1/32" in by_name["veth0"]["addresses"]
    # An index in another namespace must not be taken for a link here.
    assert (by_name["out0"]["link"], by_name["out0"]["link_netnsid"]) == (None, 0)
    assert by_name["out0"]["link_index"] is not None


def test_counters_move_with_the_traffic(namespace: Namespace, seen: dict[str, Any]) -> None:
    code = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(bytes(1000), ('127.0.0.1', 9))"
    subprocess.check_call(namespace.command(sys.executable, "-c", code))
    expected, found = iproute2.stable_reading(namespace, lambda: sysinfo(namespace))
    assert found["interfaces"] == expected["interfaces"]
    before, after = (next(link for link in each["interfaces"] if link["name"] == "lo") for each in (seen, found))
    assert after["rx_bytes"] - before["rx_bytes"] >= 1000


def test_further_remotes_of_a_vxlan(seen: dict[str, Any]) -> None:
    tunnels = seen["tunnels"]
    remotes = {tunnel["interface"]: tunnel["remotes"] for tunnel in tunnels if tunnel["remotes"]}
    assert remotes == {"vx0": ["198.51.100.10"], "vx3": ["198.51.100.11", "198.51.100.12"]}
    assert {tunnel["interface"] for tunnel in tunnels} >= {"vx0", "vx1", "vx2", "vx3"}


def test_routes_of_the_main_table(seen: dict[str, Any]) -> None:
    routes = seen["routes"]
    assert {"blackhole", "unreachable", "unicast"} <= {route["type"] for route in routes}
    assert "198.18.2.0/24" not in {route["destination"] for route in routes}
    assert "2001:db8::9" in {route["gateway"] for route in routes if route["destination"] == "198.18.1.0/24"}
    assert sum(route["destination"] in ("198.18.0.0/24", "2001:db8:2::/48") for route in routes) == 4


def test_selectors_that_have_no_column(seen: dict[str, Any]) -> None:
    rules = seen["rules"]
    # A VRF adds its own rule.
    others = {rule["priority"]: rule["other"] for rule in rules if rule["other"] not in ([], ["l3mdev"])}
    assert others == {60: ["tos 0x10", "ipproto 6", "sport 100-200", "dport 53", "uidrange 70000-70001"]}
    assert len(rules) >= 13


def test_multicast_is_not_a_neighbour(seen: dict[str, Any]) -> None:
    destinations = {neighbour["destination"] for neighbour in seen["neighbours"]}
    assert {"192.0.2.9", "192.0.2.8", "2001:db8::9"} <= destinations
    assert "192.0.2.7" not in destinations


def test_the_age_of_a_neighbour_is_as_ip_shows_it(namespace: Namespace) -> None:
    with namespace.entered():
        rows = neighbours.parse(neighbours.read(100, (), REAL.since_boot_ms), 100)
    shown = namespace.listed("-statistics", "neighbour")
    now = REAL.since_boot_ms() / 1000
    confirmed = {each["dst"]: now - each["confirmed"] for each in shown}
    assert len(rows.items) == len(rows.marks["neighbours_confirmed"]) == len(confirmed)
    for row, at in zip(rows.items, rows.marks["neighbours_confirmed"], strict=True):
        # Between the two readings, neither clock stands still; `ip` rounds to whole seconds, too.
        assert abs(at - confirmed[row.destination]) <= PATIENCE_SECONDS


def test_the_gateways_come_first_in_a_table_that_is_cut(namespace: Namespace) -> None:
    with namespace.entered():
        whole = neighbours.parse(neighbours.read(100, (), REAL.since_boot_ms), 100).items
        gateways = {[row.destination for row in whole if mark in row.destination][-1] for mark in ".:"}
        through = [Route("0.0.0.0/0", gateway, None, None, 0, "static", "unicast") for gateway in gateways]
        cut = neighbours.parse(neighbours.read(2, through, REAL.since_boot_ms), 2)
        complete = neighbours.parse(neighbours.read(100, through, REAL.since_boot_ms), 100).items
    assert {row.destination for row in cut.items} == gateways
    assert (cut.cuts[0].kept, cut.cuts[0].of) == (2, len(whole))
    assert complete == whole


# Measures as root, then as the user nobody.
TWICE = """
import json, os, time
import psutil
from kattila_agent import config
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.collect import Inputs, measure
from kattila_protocol import canonical

def measured():
    runtime = Runtime(lambda: 0, time.monotonic, lambda: 0, str, str, float)
    given = Inputs({}, config.default_limits(), runtime, "198.51.100.200")
    return json.loads(canonical.encode(measure(given).telemetry))

as_root = measured()
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(json.dumps([as_root, measured()]))
"""


def test_an_agent_without_privilege_sees_the_same(namespace: Namespace) -> None:
    command = namespace.command(sys.executable, "-c", TWICE)
    as_root, as_nobody = json.loads(subprocess.check_output(command, timeout=PATIENCE_SECONDS))
    for member in (*MEMBERS, "lookups"):
        assert len(as_root[member]) > 0
        assert without_counters(as_nobody[member]) == without_counters(as_root[member])
    # If the kernel has WireGuard.
    assert {failure["collector"] for failure in as_nobody.get("failures", [])} <= {"wireguard"}


def without_counters(rows: list[Any]) -> list[Any]:
    moving = ("rx_bytes", "tx_bytes", "rx_dropped", "tx_dropped", "rx_errors", "tx_errors")
    return [
        {name: value for name, value in row.items() if name not in moving} if isinstance(row, dict) else row
        for row in rows
    ]


# --- Route lookups


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
        assert lookup == iproute2.lookup(namespace, lookup, *iproute2.lookup_words(tunnel))
    # This address only has an unreachable route.
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
    assert found == iproute2.lookup(namespace, found)
    assert (found["gateway"], found["mtu"], found["table"], found["error"]) == (gateway, mtu, in_table, None)


def looked_up(namespace: Namespace, address: str, mark: int) -> dict[str, Any]:
    """The one lookup of a WireGuard endpoint, as the collector makes it in the namespace."""
    code = (
        "import json; from kattila_agent.collectors import neighbours, link_table, lookups\n"
        f"queries = [lookups.RouteQuery('wireguard', 'wg0', {address!r}, {mark})]\n"
        "links = link_table.read_by_index(link_table.summary)\n"
        "print(json.dumps(lookups.parse(lookups.look_up(queries, links))[0]._asdict()))"
    )
    found: dict[str, Any] = json.loads(subprocess.check_output(namespace.command(sys.executable, "-c", code)))
    return found
