"""Which routes are reported if there are more than the limit, and with which columns."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest

from kattila_agent.collectors import policy_routes, routes
from kattila_agent.collectors.netlink.rtnetlink import Listed
from kattila_agent.collectors.nexthops import Hop, Hops
from kattila_protocol.report import Cut, Rule
from support import netlink
from support.collector_messages import NAMES, ROUTE, listed
from support.netlink import channel_with, done, ip, message, multipath, nla
from support.netns import Namespace, new_namespace


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
