"""Sample kernel messages, and the parser of each collector as a function of such messages."""

from __future__ import annotations

import struct

from kattila_agent.collectors import links, lookups, neighbours, routes, rules, tunnels
from kattila_agent.collectors.link_table import LinkSummary
from kattila_agent.collectors.lookups import LookupReadings, RouteAnswer, RouteQuery
from kattila_agent.collectors.netlink.transport import Listed
from kattila_protocol.report import (
    Interface,
    Lookup,
    Neighbour,
    Route,
    Rule,
    Tunnel,
)
from support import netlink
from support.netlink import ip, link, link_info, nla

NAMES = {2: "eth0", 3: "eth1"}
COUNTERS = struct.pack("=8Q", 1, 2, 10, 20, 3, 4, 5, 6)
ETHERNET = link(2, "eth0", nla(1, bytes.fromhex("020000000001")), nla(16, 6, 1))
GRE = link(
    *(3, "gre1", nla(1, ip("192.0.2.1")), nla(5, 2)),
    link_info("gre", nla(1, 2), nla(6, ip("192.0.2.1")), nla(7, ip("198.51.100.9")), nla(8, 64, 1)),
    kind=778,
    flags=0x91,
    mtu=1476,
)
IP6_TUNNEL = link(3, "six1", nla(1, ip("2001:db8::1")), link_info("ip6tnl"), kind=769)
INFINIBAND = link(2, "ib0", nla(1, bytes(range(20))), kind=32)
WIREGUARD = link(5, "wg0", nla(16, 0, 1), link_info("wireguard"), kind=65534, flags=0x10091, mtu=1420)
ADDRESS = netlink.address(2, 24, nla(1, ip("192.0.2.1")), nla(2, ip("192.0.2.1")))
LOCAL, REMOTE = ip("192.0.2.1"), ip("198.51.100.9")
LOCAL6, REMOTE6 = ip("2001:db8::1"), ip("2001:db8::9")
GATEWAY, OIF = nla(5, ip("192.0.2.254")), nla(4, 2)
ROUTE = netlink.route(GATEWAY, OIF)


def listed(*bodies: bytes, total: int | None = None) -> Listed:
    return Listed(list(bodies), len(bodies) if total is None else total)


def parsed_links(
    bodies: tuple[bytes, ...], addresses: tuple[bytes, ...] = (), statistics: tuple[bytes, ...] = ()
) -> tuple[Interface, ...]:
    return links.parse(links.LinkReadings(listed(*bodies), listed(*addresses), {}, statistics)).items


def one(body: bytes, *statistics: bytes) -> Interface:
    (interface,) = parsed_links((body,), statistics=statistics)
    return interface


def parsed_routes(*bodies: bytes) -> tuple[Route, ...]:
    return routes.parse(routes.RouteReadings(listed(*bodies), listed(), NAMES), 100).items


def parsed_rules(*bodies: bytes) -> tuple[Rule, ...]:
    return rules.parse(rules.RuleReadings(listed(*bodies), listed()), 100).items


def parsed_neighbours(*bodies: bytes) -> tuple[Neighbour, ...]:
    return neighbours.parse(neighbours.NeighbourReadings(listed(*bodies), listed(), NAMES, 0), 100).items


def parsed_tunnels(*bodies: bytes) -> tuple[Tunnel, ...]:
    return tunnels.parse(bodies, NAMES)


def parsed_lookups(body: bytes) -> tuple[Lookup, ...]:
    outgoing = {2: LinkSummary(2, "eth0", None, 1500), 3: LinkSummary(3, "eth1", None)}
    answer = RouteAnswer(RouteQuery("wireguard", "wg0", "198.51.100.7"), body)
    return lookups.parse(LookupReadings((answer,), outgoing))
