"""Which routes are told where there are more than a report may hold, and what they are told to be."""

from __future__ import annotations

from collections import Counter

import pytest

from kattila_agent.collectors import routes
from kattila_agent.collectors.nexthops import Hop, Hops
from kattila_protocol.report import Cut
from support import netlink
from support.netlink import ip, multipath, nla
from support.parsed import NAMES, ROUTE, listed


def test_the_same_route_follows_its_interface_and_its_nexthop_object() -> None:
    body, by_object = ROUTE, netlink.route(nla(30, 7))
    hops: list[Hops] = [{7: (Hop(3, "192.0.2.1"),)}, {7: (Hop(3, "192.0.2.2"), Hop(4, None))}, {}]
    plain = routes.taken_apart(body, {})
    assert [row.interface for name in ("eth0", "wan") for row in routes.rows(plain, {2: name}, 9)] == ["eth0", "wan"]
    assert [[row.gateway for row in routes.rows(routes.taken_apart(by_object, each), {}, 9)] for each in hops] == [
        ["192.0.2.1"],
        ["192.0.2.2", None],
        [None],
    ]


def test_default_routes_are_told_beyond_the_limit_and_both_families_have_their_share() -> None:
    inet = [netlink.route(nla(1, bytes((10, 0, 0, number))), length=32) for number in range(3)]
    inet6 = [netlink.route(nla(1, ip(f"2001:db8::{number}")), family=10, length=128) for number in range(3)]
    last = netlink.route(family=10)
    found = routes.parse(routes.Readings(listed(*inet, total=900), listed(*inet6, last, total=50), {}), 4)
    assert [route.destination for route in found.items] == [
        *("10.0.0.0/32", "10.0.0.1/32", "2001:db8::/128", "2001:db8::1/128", "::/0")
    ]
    assert found.cuts == (Cut("routes", 5, 950),)


def through(*gateways: int, to: int | None = None) -> bytes:
    """A route with a next hop for each of these; to everywhere, or one host."""
    destination = () if to is None else (nla(1, bytes((10, 0, 0, to))),)
    return netlink.route(multipath(*gateways), *destination, length=0 if to is None else 32)


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(9, [4, 3, 2]), (8, [4, 3]), (6, [4, 2]), (5, [4]), (4, [4]), (2, [2]), (1, [1])],
)
def test_a_route_is_told_with_all_its_next_hops_or_not_at_all(limit: int, kept: list[int]) -> None:
    bodies = [through(*range(1, 5), to=4), through(1, 2, 3, to=3), through(1, 2, to=2)]
    found = routes.parse(routes.Readings(listed(*bodies, total=10), listed(), NAMES), limit)
    assert list(Counter(route.destination for route in found.items).values()) == kept
    # Of those that were not read nobody knows the next hops.
    assert found.cuts == (Cut("routes", sum(kept), 9 + 7),)


@pytest.mark.parametrize(("limit", "kept"), [(4, [1, 1, 2]), (3, [1, 1, 2]), (2, [1, 1, 2]), (1, [1, 1])])
def test_next_hops_of_default_routes_are_bounded_as_well(limit: int, kept: list[int]) -> None:
    bodies = [through(1, to=1), through(1, to=2), through(1, 2)]
    found = routes.parse(routes.Readings(listed(*bodies), listed(), NAMES), limit)
    assert list(Counter(route.destination for route in found.items).values()) == kept
    assert found.items[-1].destination == "0.0.0.0/0"
    assert len(found.items) <= 2 * limit
