"""Which routes are reported if there are more than the limit, and with which columns."""

from __future__ import annotations

import ipaddress
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kattila_agent.collectors import links, policy_routes, routes
from kattila_agent.collectors.limits import Bounded
from kattila_agent.collectors.netlink.transport import Listed
from kattila_agent.collectors.nexthops import Hop, Hops
from kattila_agent.config import default_limits
from kattila_agent.sampling.collect import Inputs, measure
from kattila_manager.store.decoding import decode
from kattila_protocol import canonical
from kattila_protocol.report import Cut, Route, RouteMark, Rule
from protocol.samples import REPORT
from support import netlink
from support.collector_messages import NAMES, ROUTE, listed
from support.netlink import channel_with, done, ip, message, multipath, nla
from support.netns import Namespace, new_namespace
from support.runtime import FIXED
from support.waiting import wait_for


def test_the_same_route_follows_its_interface_and_its_nexthop_object() -> None:
    body, by_object = ROUTE, netlink.route(nla(30, 7))
    objects: list[Hops] = [{7: (Hop(3, "192.0.2.1"),)}, {7: (Hop(3, "192.0.2.2"), Hop(4, None))}, {}]
    (plain,) = routes.decoded([body], {})
    assert [row.interface for name in ("eth0", "wan") for row in routes.rows(plain, {2: name}, 9)] == ["eth0", "wan"]
    found = [route for each in objects for route in routes.decoded([by_object], each)]
    assert [[row.gateway for row in routes.rows(route, {}, 9)] for route in found] == [
        ["192.0.2.1"],
        ["192.0.2.2", None],
        [None],
    ]


def test_default_routes_are_reported_beyond_the_limit_which_both_families_share() -> None:
    inet = [netlink.route(nla(1, bytes((10, 0, 0, number))), length=32) for number in range(3)]
    inet6 = [netlink.route(nla(1, ip(f"2001:db8::{number}")), family=10, length=128) for number in range(3)]
    last = netlink.route(family=10)
    found = routes.parse(routes.RouteReadings(listed(*inet, total=900), listed(*inet6, last, total=50), {}), 4)
    assert [route.destination for route in found.items] == [
        *("10.0.0.0/32", "10.0.0.1/32", "2001:db8::/128", "2001:db8::1/128", "::/0")
    ]
    assert found.cuts == (Cut("routes", 5, 950),)


def test_twice_as_many_default_routes_are_read_and_others_are_only_counted() -> None:
    default, narrow = netlink.route(nla(6, 1)), netlink.route(nla(1, bytes((10, 0, 0, 0))), length=8)
    for_some_sources = default[:2] + b"\x30" + default[3:]
    other_table, other_family = netlink.route(table=77), netlink.route(family=10)
    bodies = [narrow] * 3 + [for_some_sources] + [default] * 4 + [narrow, other_table, other_family]
    with channel_with(*(message(24, body) for body in bodies), done()) as channel:
        found = routes._main_table(channel, b"", family=2, limit=2)
    assert found == Listed([narrow] * 2 + [default] * 2, 9)


def through(*gateways: int, to: int | None = None) -> bytes:
    """A route through these gateways, to all destinations or to one host."""
    destination = () if to is None else (nla(1, bytes((10, 0, 0, to))),)
    return netlink.route(multipath(*gateways), *destination, length=0 if to is None else 32)


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(9, [4, 3, 2]), (8, [4, 3]), (6, [4, 2]), (5, [4]), (4, [4]), (2, [2]), (1, [1])],
)
def test_a_route_is_reported_with_all_its_next_hops_or_not_at_all(limit: int, kept: list[int]) -> None:
    bodies = [through(*range(1, 5), to=4), through(1, 2, 3, to=3), through(1, 2, to=2)]
    found = routes.parse(routes.RouteReadings(listed(*bodies, total=10), listed(), NAMES), limit)
    assert list(Counter(route.destination for route in found.items).values()) == kept
    # The next hops of routes that were not kept are unknown.
    assert found.cuts == (Cut("routes", sum(kept), 9 + 7),)


@pytest.mark.parametrize(("limit", "kept"), [(4, [1, 1, 2]), (3, [1, 1, 2]), (2, [1, 1, 2]), (1, [1, 1])])
def test_the_limit_applies_to_next_hops_of_default_routes(limit: int, kept: list[int]) -> None:
    bodies = [through(1, to=1), through(1, to=2), through(1, 2)]
    found = routes.parse(routes.RouteReadings(listed(*bodies), listed(), NAMES), limit)
    assert list(Counter(route.destination for route in found.items).values()) == kept
    assert found.items[-1].destination == "0.0.0.0/0"
    assert len(found.items) <= 2 * limit


# --- Routes for some sources only

SOURCE_SPECIFIC = """
route add default from 2001:db8:1::/48 via 2001:db8::a metric 5
route add 2001:db8:7::/48 from 2001:db8:1::/48 via 2001:db8::a
route add default via 2001:db8::fe metric 50
route add default from 2001:db8:1::/48 via 2001:db8::b table 77
route add 2001:db8:7::/48 from 2001:db8:1::/48 via 2001:db8::b table 77
route add default via 2001:db8::fd table 77
"""


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with new_namespace() as made:
        made.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
        for name in ("v0", "v1"):
            made.ip("link", "set", name, "addrgenmode", "none", "up")
        made.ip("address", "add", "2001:db8::1/64", "dev", "v0", "nodad")
        command = ["ip", "-n", made.name, "-6", "-batch", "-"]
        if subprocess.run(command, check=False, input=SOURCE_SPECIFIC, capture_output=True, text=True).returncode:
            pytest.skip("this kernel has no routes for some sources only")
        yield made


@pytest.mark.parametrize("limit", [100, 2])
def test_a_route_for_some_sources_is_not_a_default_route_and_only_counted(namespace: Namespace, limit: int) -> None:
    with namespace.entered():
        found = routes.parse(routes.read(limit), limit)
    assert [(route.destination, route.gateway) for route in found.items] == [
        ("2001:db8::/64", None),
        ("::/0", "2001:db8::fe"),
    ]
    assert found.cuts == (Cut("routes", 2, 4),)


@pytest.mark.parametrize("limit", [100, 1])
def test_a_route_for_some_sources_in_another_table_is_only_counted(namespace: Namespace, limit: int) -> None:
    with namespace.entered():
        found = policy_routes.parse(policy_routes.read([Rule("inet6", 9, "lookup", table=77)], limit), limit)
    assert [(route.destination, route.gateway) for route in found.items] == [("::/0", "2001:db8::fd")]
    assert found.cuts == (Cut("policy_routes", 1, 2),)


# --- Routes for one type of service, multicast, encapsulation, and next hops that are not used

SELECTIVE = """
route add default via 192.0.2.9 tos 0x10
route add default via 192.0.2.8 tos 0x08 metric 5
route add default via 192.0.2.254 metric 100
route add 198.51.100.0/24 via 192.0.2.7 tos 0x04
route add 198.51.100.0/24 nexthop via 192.0.2.5 nexthop via 192.0.2.6
route add multicast 233.252.0.0/24 dev v0
route add default via 192.0.2.9 tos 0x10 table 77
route add default via 192.0.2.253 table 77
"""
UNUSED = """
route add 203.0.113.0/24 via 198.18.0.2
route add 203.0.113.128/25 nexthop via 192.0.2.5 nexthop via 198.18.0.2
route add default via 198.18.0.2 metric 200
route add default via 198.18.0.2 table 77
"""
UNUSED_INET6 = """
route add 2001:db8:7::/48 via 2001:db8:5::2 metric 9
route add 2001:db8:8::/48 nexthop via 2001:db8::9 nexthop via 2001:db8:5::2
"""


@pytest.fixture
def wired() -> Iterator[Namespace]:
    """A namespace with the link v0, which has a carrier, and the links u0 and u1, of which u1 may lose it."""
    with new_namespace() as made:
        for near, far in (("v0", "v1"), ("u0", "u1")):
            made.ip("link", "add", near, "type", "veth", "peer", "name", far)
            for name in (near, far):
                made.ip("link", "set", name, "addrgenmode", "none", "up")
        made.ip("address", "add", "192.0.2.1/24", "dev", "v0")
        made.ip("address", "add", "2001:db8::1/64", "dev", "v0", "nodad")
        made.ip("address", "add", "198.18.0.1/24", "dev", "u0")
        made.ip("address", "add", "2001:db8:5::1/64", "dev", "u0", "nodad")
        yield made


def add_routes(namespace: Namespace, lines: str, *words: str) -> None:
    assert namespace.ip_lines(lines, *words) == []


def read_main(limit: int = 100) -> Bounded[Route]:
    return routes.parse(routes.read(limit), limit)


@pytest.mark.parametrize("limit", [100, 3])
def test_a_route_for_one_type_of_service_is_only_counted(wired: Namespace, limit: int) -> None:
    add_routes(wired, SELECTIVE)
    with wired.entered():
        found = read_main(limit)
        other = policy_routes.parse(policy_routes.read([Rule("inet", 9, "lookup", table=77)], limit), limit)
    defaults = [(route.gateway, route.metric) for route in found.items if route.destination == "0.0.0.0/0"]
    assert defaults == [("192.0.2.254", 100)]
    assert not {"192.0.2.7", "192.0.2.8", "192.0.2.9"} & {route.gateway for route in found.items}
    if limit == 100:
        assert [route.type for route in found.items if route.destination == "233.252.0.0/24"] == ["multicast"]
        assert found.cuts == (Cut("routes", len(found.items), len(found.items) + 3),)
    assert [(route.table, route.gateway) for route in other.items] == [(77, "192.0.2.253")]
    assert other.cuts == (Cut("policy_routes", 1, 2),)
    assert found.marks == {"route_marks": ()}


@pytest.mark.parametrize("ignored", [False, True])
def test_next_hops_without_a_carrier_are_marked(wired: Namespace, ignored: bool) -> None:
    add_routes(wired, UNUSED)
    add_routes(wired, UNUSED_INET6, "-6")
    if ignored:
        for family in ("ipv4", "ipv6"):
            setting = f"/proc/sys/net/{family}/conf/u0/ignore_routes_with_linkdown"
            subprocess.run(wired.command("sh", "-c", f"echo 1 > {setting}"), check=True)
    wired.ip("link", "set", "u1", "down")
    wait_for(lambda: "NO-CARRIER" in wired.listed("link", "show", "u0")[0]["flags"], "no carrier")
    with wired.entered():
        found = read_main()
        other = policy_routes.parse(policy_routes.read([Rule("inet", 9, "lookup", table=77)], 100), 100)
    expected = {
        (254, mark[0], hop.get("gateway"), hop["dev"], mark[1], tuple(sorted(hop["flags"])))
        for version in ("-4", "-6")
        for route in wired.listed(version, "route", "show", "table", "main")
        for mark in [(network(route["dst"]), route.get("metric", 0))]
        for hop in route.get("nexthops", [route])
        if hop["flags"]
    }
    marks = found.marks["route_marks"]
    assert {(*mark[:-1], tuple(sorted(mark[-1]))) for mark in marks} == expected
    assert len(marks) == len(expected) >= 7
    both = ("dead", "linkdown") if ignored else ("linkdown",)
    assert RouteMark(254, "203.0.113.128/25", "198.18.0.2", "u0", 0, both) in marks
    assert RouteMark(254, "2001:db8:8::/48", "2001:db8:5::2", "u0", 1024, both) in marks
    # The next hops with a carrier have rows without marks.
    assert ("203.0.113.128/25", "192.0.2.5") in {(route.destination, route.gateway) for route in found.items}
    assert "192.0.2.5" not in {mark[2] for mark in marks}
    assert other.marks == {"route_marks": (RouteMark(77, "0.0.0.0/0", "198.18.0.2", "u0", 0, both),)}


def network(text: str) -> str:
    return str(ipaddress.ip_network("0.0.0.0/0" if text == "default" else text))


ENCAPSULATED = {
    "mpls": "route add 203.0.113.0/28 encap mpls 100/200 via 192.0.2.2 dev v0",
    "ip": "route add 203.0.113.16/28 encap ip id 5 dst 192.0.2.9 dev v0",
    "ip6": "route add 203.0.113.32/28 encap ip6 id 5 dst 2001:db8::9 dev v0",
    "seg6": "-6 route add 2001:db8:b0::/48 encap seg6 mode encap segs 2001:db8::5 dev v0",
    "seg6local": "-6 route add 2001:db8:b1::/48 encap seg6local action End.X nh6 2001:db8::3 dev v0",
}


def test_the_encapsulation_of_a_next_hop_is_marked(wired: Namespace) -> None:
    supported = [kind for kind, words in ENCAPSULATED.items() if wired.has(*words.split())]
    if not supported:
        pytest.skip("this kernel has no encapsulation of routes")
    with wired.entered():
        found = read_main()
    assert [mark.marks for mark in found.marks["route_marks"]] == [(f"encap {kind}",) for kind in supported]
    rows = {(route.destination, route.gateway) for route in found.items}
    assert {(mark[1], mark[2]) for mark in found.marks["route_marks"]} <= rows


def test_marks_of_messages() -> None:
    """Marks of all kinds without a kernel that has them, in each place where a message may contain them."""
    names, mpls, unknown = {2: "eth0"}, nla(21, struct.pack("=H", 1)), nla(21, struct.pack("=H", 77))
    oif = nla(4, struct.pack("=I", 2))
    hop = mpls + nla(5, ip("192.0.2.1"))
    paths = nla(9, struct.pack("=HBBi", 8 + len(hop), 17, 0, 2) + hop + struct.pack("=HBBi", 8, 4, 0, 2))
    bodies = [netlink.route(oif, unknown), netlink.route(paths), netlink.route(nla(30, struct.pack("=I", 7)))]
    nexthop = struct.pack("=BxxxI", 2, 16) + nla(1, struct.pack("=I", 7)) + nla(5, struct.pack("=I", 2))
    nexthop += nla(7, struct.pack("=H", 8))
    found = routes.parse(routes.RouteReadings(listed(*bodies), listed(), names, (nexthop,)), 9)
    assert len(found.items) == 4
    assert [(mark[1:4], mark[-1]) for mark in found.marks["route_marks"]] == [
        (("0.0.0.0/0", None, "eth0"), ("encap 77",)),
        (("0.0.0.0/0", "192.0.2.1", "eth0"), ("dead", "linkdown", "encap mpls")),
        (("0.0.0.0/0", None, "eth0"), ("linkdown", "encap rpl")),
    ]


def test_marks_are_reported_beside_the_rows_and_cut_with_them(wired: Namespace) -> None:
    add_routes(wired, UNUSED)
    wired.ip("link", "set", "u1", "down")
    wait_for(lambda: "NO-CARRIER" in wired.listed("link", "show", "u0")[0]["flags"], "no carrier")
    with wired.entered():
        telemetry = measure(Inputs({}, default_limits(), FIXED)).telemetry
        few = read_main(1)
    report = replace(REPORT, telemetry=telemetry)
    assert telemetry.route_marks
    assert decode(canonical.encode(report)) == report
    rows = {(254, route.destination, route.gateway, route.interface, route.metric) for route in few.items}
    assert {mark[:-1] for mark in few.marks["route_marks"]} <= rows


# --- Addresses that are not in use yet, or never will be


def test_tentative_and_failed_addresses_are_marked(wired: Namespace) -> None:
    subprocess.run(wired.command("sh", "-c", "echo 9 > /proc/sys/net/ipv6/conf/v0/dad_transmits"), check=True)
    # The other end has the address already, so that detection fails.
    wired.ip("address", "add", "2001:db8::77/64", "dev", "v1", "nodad")
    wired.ip("address", "add", "2001:db8::78/64", "dev", "v0")
    wired.ip("address", "add", "2001:db8::77/64", "dev", "v0")

    def shown() -> dict[str, tuple[str, ...]]:
        (link,) = wired.listed("address", "show", "dev", "v0")
        return {
            f"{each['local']}/{each['prefixlen']}": tuple(
                name for name in ("tentative", "optimistic", "dadfailed") if each.get(name)
            )
            for each in link["addr_info"]
        }

    wait_for(lambda: "dadfailed" in shown()["2001:db8::77/64"], "failed detection")
    with wired.entered():
        found = links.parse(links.read(100, 100))
    (link,) = [each for each in found.items if each.name == "v0"]
    assert {"2001:db8::77/64", "2001:db8::78/64", "2001:db8::1/64", "192.0.2.1/24"} <= set(link.addresses)
    marks = {mark[1]: mark.marks for mark in found.marks["address_marks"] if mark[0] == "v0"}
    assert marks["2001:db8::77/64"] == ("tentative", "dadfailed")
    assert marks["2001:db8::78/64"] == ("tentative",)
    assert set(marks) == {"2001:db8::77/64", "2001:db8::78/64"}
