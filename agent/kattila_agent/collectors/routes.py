"""The routes of the main table of both families, as `ip -details route` shows them.

Other tables are read by `policy_routes`, with the functions that are public here.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import add
from typing import NamedTuple

from kattila_agent.collectors import link_table, nexthops
from kattila_agent.collectors.limits import Bounded, cut, shares, whole
from kattila_agent.collectors.netlink import notation, transport
from kattila_agent.collectors.netlink.codecs.message import Message
from kattila_agent.collectors.netlink.codecs.rtnetlink import ROUTE
from kattila_agent.collectors.netlink.transport import Listed, NetlinkChannel
from kattila_agent.collectors.nexthops import Hop, Hops
from kattila_protocol.report import Route, RouteMark

# A table may have a million routes, of which most are only counted.
_header = ROUTE.reader("family", "dst_len", "src_len", "tos", "table", "flags")
FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}

MAIN_TABLE = 254
_ANYWHERE: dict[int, str] = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}
# Set on an exception that the kernel derived from a route, such as for a path MTU.
CLONED = 0x200
_TYPES = (
    "unspec",
    "unicast",
    "local",
    "broadcast",
    "anycast",
    "multicast",
    "blackhole",
    "unreachable",
    "prohibit",
    "throw",
    "nat",
    "xresolve",
)
# linux/rtnetlink.h, with the names of rt_protos in iproute2
_PROTOCOLS = {
    0: "unspec",
    1: "redirect",
    2: "kernel",
    3: "boot",
    4: "static",
    8: "gated",
    9: "ra",
    10: "mrt",
    11: "zebra",
    12: "bird",
    13: "dnrouted",
    14: "xorp",
    15: "ntk",
    16: "dhcp",
    17: "mrouted",
    18: "keepalived",
    42: "babel",
    99: "openr",
    186: "bgp",
    187: "isis",
    188: "ospf",
    189: "rip",
    192: "eigrp",
}


@dataclass(frozen=True, slots=True)
class RouteReadings:
    """What the kernel returned: RTM_NEWROUTE of both families, the names of the links by index, and nexthop objects."""

    inet: Listed
    inet6: Listed
    names: Mapping[int, str]
    objects: tuple[bytes, ...] = ()


class RouteWithHops(NamedTuple):
    """A route without a next hop, its next hops, its table, and the id of the nexthop object that has its next hops."""

    route: Route
    hops: tuple[Hop, ...]
    table: int
    object: int | None = None

    @property
    def is_default(self) -> bool:
        """Whether this is a route to every destination."""
        return self.route.destination.endswith("/0")


def read(limit: int) -> RouteReadings:
    """Read the main table of both families: of each the first `limit` routes, and as many more default routes.

    The others are only counted (a million take 1 s), and so are routes for some packets only (`ip -6 route add … from`,
    `… tos`). Raises OSError or ValueError.
    """
    inet, inet6 = (
        read_table(family, MAIN_TABLE, partial(_main_table, family=family, limit=limit)) for family in FAMILIES.values()
    )
    names = link_table.read_by_index(link_table.name)
    return RouteReadings(inet, inet6, names, read_objects((*inet.bodies, *inet6.bodies)))


def parse(readings: RouteReadings, limit: int) -> Bounded[Route]:
    """Return the routes in the kernel's order, a row for each next hop; the rows count against the limit.

    Each family gets half of the limit, or more if it is free. The limit applies a second time to the default routes
    beyond it: someone who floods a segment with router advertisements makes thousands of them.

    Raises:
        ValueError: a message is malformed, or lacks what every route has.
    """
    families = (readings.inet, readings.inet6)
    objects = nexthops.parse(readings.objects)
    found = [decoded(family.bodies, objects) for family in families]
    granted = [
        (route, most)
        for routes, counts in zip(found, _granted(found, limit), strict=True)
        for route, most in zip(routes, counts, strict=True)
    ]
    reported = tuple(row for route, most in granted for row in rows(route, readings.names, most))
    marked = tuple(mark for route, most in granted for mark in marks(MAIN_TABLE, route, readings.names, most))
    return Bounded(
        reported,
        cut("routes", len(reported), sum(map(count_rows, found, families))),
        marks={"route_marks": marked},
    )


def read_table(family: int, table: int, read_answer: Callable[[NetlinkChannel, bytes], Listed]) -> Listed:
    """Return what `read_answer` makes of a channel and the request for a table; raises OSError or ValueError.

    The answer may contain other routes: a kernel before 4.20 does not filter, and one without IPv6 returns IPv4.
    """
    request = ROUTE.encode(("RTA_TABLE", table), family=family)
    try:
        return transport.retried(lambda channel: read_answer(channel, request))
    except OSError as error:
        # A namespace has no such table before its first route.
        if error.errno != errno.ENOENT:
            raise
        return Listed([], 0)


def read_objects(bodies: Iterable[bytes]) -> tuple[bytes, ...]:
    """Read the nexthop objects if one of these routes has no other next hop; raises OSError or ValueError."""
    if any(decode(body).object is not None for body in bodies):
        return tuple(nexthops.read().bodies)
    return ()


def gateway(found: Message) -> str | None:
    """Return the gateway of a route or next hop, None if it has none; raises ValueError if it is malformed."""
    # An IPv4 destination may be behind an IPv6 gateway (RFC 8950).
    via: str | None = found.get("RTA_VIA") or found.get("RTA_GATEWAY")
    return via


def count_rows(found: Iterable[RouteWithHops], listed: Listed) -> int:
    """Return how many rows a complete table would have; a route that was not kept counts as one."""
    return sum(len(route.hops) for route in found) + listed.total - len(listed.bodies)


def decoded(bodies: Iterable[bytes], objects: Hops) -> list[RouteWithHops]:
    """Return these routes, with the next hops of nexthop objects where they name one; raises ValueError."""
    return [
        route if route.object is None else route._replace(hops=objects.get(route.object, route.hops))
        for route in map(decode, bodies)
    ]


def rows(found: RouteWithHops, names: Mapping[int, str], most: int) -> Iterator[Route]:
    """Yield a row for each of the first `most` next hops."""
    route = found.route
    for oif, via, _ in found.hops[:most]:
        interface = None if oif is None else names.get(oif) or f"if{oif}"
        # _replace takes more than twice as long.
        yield Route(route.destination, via, interface, route.source, route.metric, route.protocol, route.type)


def marks(table: int, found: RouteWithHops, names: Mapping[int, str], most: int) -> Iterator[RouteMark]:
    """Yield the marks of those rows of `rows` that have any."""
    # Most routes have none, and their rows need not be made again.
    if not any(hop.marks for hop in found.hops):
        return
    for hop, row in zip(found.hops, rows(found, names, most), strict=False):
        if hop.marks:
            yield RouteMark(table, row.destination, row.gateway, row.interface, row.metric, hop.marks)


def _main_table(channel: NetlinkChannel, request: bytes, *, family: int, limit: int) -> Listed:
    """Keep the first `limit` routes and as many more default routes, and count all."""
    bodies: list[bytes] = []
    total = 0
    for body in channel.each(ROUTE.request, request, least=ROUTE.size):
        message_family, length, source_length, tos, table, flags = _header(body)
        if message_family != family or table != MAIN_TABLE or flags & CLONED:
            continue
        total += 1
        # A row has no column for a source prefix or a type of service, and would look like a route for all packets.
        if not source_length and not tos and len(bodies) < (limit if length else 2 * limit):
            bodies.append(body)
    return Listed(bodies, total)


def _granted(found: list[list[RouteWithHops]], limit: int) -> list[list[int]]:
    """Return how many next hops to report for each route of each family."""
    granted = [[0] * len(routes) for routes in found]
    # First all routes share the limit, then the default routes beyond it share another one of that size.
    for only_defaults in (False, True):
        missing = [
            [
                len(route.hops) - kept if kept < len(route.hops) and (not only_defaults or route.is_default) else 0
                for route, kept in zip(routes, counts, strict=True)
            ]
            for routes, counts in zip(found, granted, strict=True)
        ]
        for counts, sizes, share in zip(granted, missing, shares(limit, list(map(sum, missing))), strict=True):
            counts[:] = map(add, counts, whole(sizes, share))
    return granted


# Decoding takes longer than anything else in a report, and most routes have not changed since the last one. There is
# room for the routes of the largest limit.
@lru_cache(maxsize=16_384)
def decode(body: bytes) -> RouteWithHops:
    """Return the route in a message, with the next hops that it has itself; raises ValueError if it is malformed."""
    found = ROUTE.decode(body)
    protocol, kind, length = (found.fields[name] for name in ("proto", "type", "dst_len"))
    hops = tuple(_hops(found))
    route = Route(
        destination=_destination(found.get("RTA_DST"), found.fields["family"], length),
        gateway=None,
        interface=None,
        source=found.get("RTA_PREFSRC"),
        metric=found.get("RTA_PRIORITY") or 0,
        protocol=_PROTOCOLS.get(protocol, str(protocol)),
        type=_TYPES[kind] if kind < len(_TYPES) else str(kind),
    )
    # The number of a table may not fit into the byte of the header.
    table = found.get("RTA_TABLE")
    by_object = found.get("RTA_MULTIPATH") is None and hops[0].oif is None
    number = found.get("RTA_NH_ID")
    return RouteWithHops(route, hops, found.fields["table"] if table is None else table, number if by_object else None)


def _hops(found: Message) -> Iterator[Hop]:
    paths = found.get("RTA_MULTIPATH")
    if paths is None:
        yield _hop(found, found.get("RTA_OIF"))
        return
    for path in paths:
        yield _hop(path, path.fields["oif"])


def _hop(found: Message, index: int | None) -> Hop:
    return Hop(index, gateway(found), nexthops.marks(found.fields["flags"], found.get("RTA_ENCAP_TYPE")))


def _destination(address: str | None, family: int, length: int) -> str:
    destination = notation.prefix(address, family, length)
    if address is not None:
        _, packed = notation.packed(address)
        if int.from_bytes(packed, "big") & ((1 << (8 * len(packed) - length)) - 1):
            raise ValueError(f"the destination {destination} has bits beyond its prefix")
    return destination or _ANYWHERE[family]
