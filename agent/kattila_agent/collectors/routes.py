"""The routes of the main table of both families, as `ip -details route` shows them.

May live here: reading routes and naming what they hold. Not here: other tables (policy_routes) and the rules that lead
to them (rules).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import add
from typing import NamedTuple

from kattila_agent.collectors import link_table, nexthops
from kattila_agent.collectors.bounds import Bounded, cut, shares, whole
from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Attributes, Channel, Listed
from kattila_agent.collectors.nexthops import Hop, Hops
from kattila_protocol.report import Route

# linux/rtnetlink.h
RTM_GETROUTE = 26
HEADER = struct.Struct("=BBBBBBBBI")
_FLAGS = struct.Struct("=8xI")
_TABLE = struct.Struct("=I")
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_MULTIPATH = 1, 4, 5, 6, 7, 9
_RTA_TABLE, _RTA_VIA, _RTA_NH_ID = 15, 18, 30
# struct rtattr of the number of a nexthop object
_NH_ID_BEGINS = struct.pack("=HH", 8, _RTA_NH_ID)
_HOP = struct.Struct("=HBBi")
FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}

MAIN_TABLE = 254
_TABLE_AT = 4
_CLONED = 0x200
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
# linux/rtnetlink.h, under the names of iproute2's rt_protos.
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
class Readings:
    """What the kernel says: RTM_NEWROUTE of both families, the names of the links by index, and nexthop objects."""

    inet: Listed
    inet6: Listed
    names: Mapping[int, str]
    objects: tuple[bytes, ...] = ()


class Taken(NamedTuple):
    """A route without its next hop, and its next hops."""

    route: Route
    hops: tuple[Hop, ...]

    @property
    def is_default(self) -> bool:
        """Tell whether it is for every destination."""
        return self.route.destination.endswith("/0")


def read(limit: int) -> Readings:
    """Ask the kernel for the main table of both families, of each the first `limit` and as many default routes more.

    The others are counted, a million take 1 s, and so are those for some sources only. Raises OSError or ValueError.
    """
    inet, inet6 = (_main_table(family, limit) for family in FAMILIES.values())
    return Readings(inet, inet6, link_table.names_by_index(), read_objects((*inet.bodies, *inet6.bodies)))


def parse(readings: Readings, limit: int) -> Bounded[Route]:
    """Return the routes in the kernel's order; one with several next hops becomes one for each, and counts as so many.

    Of each family at least half of the limit, if there are so many, and beyond it default routes, again up to the
    limit: who floods a segment with router advertisements makes thousands of them.

    Raises:
        ValueError: a message is malformed or lacks what every route has.
    """
    families = (readings.inet, readings.inet6)
    objects = nexthops.parse(readings.objects)
    found = [[taken_apart(body, objects) for body in family.bodies] for family in families]
    told = tuple(
        row
        for routes, counts in zip(found, _granted(found, limit), strict=True)
        for route, most in zip(routes, counts, strict=True)
        for row in rows(route, readings.names, most)
    )
    return Bounded(told, cut("routes", len(told), sum(map(count_rows, found, families))))


def read_table(family: int, table: int, read_answer: Callable[[Channel, bytes], Listed]) -> Listed:
    """Have the answer to the question for a table read; it may hold routes of others.

    A kernel before 4.20 does not filter, and one without IPv6 answers with IPv4. Raises OSError or ValueError.
    """
    question = HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + rtnetlink.attribute(_RTA_TABLE, _TABLE.pack(table))
    try:
        return rtnetlink.settled(lambda channel: read_answer(channel, question))
    except OSError as error:
        # A namespace has no such table before its first route.
        if error.errno != errno.ENOENT:
            raise
        return Listed([], 0)


def read_objects(bodies: Iterable[bytes]) -> tuple[bytes, ...]:
    """Ask the kernel for nexthop objects, if a route names one and says no more; raises OSError or ValueError."""
    return tuple(nexthops.read().bodies) if any(map(_names_an_object_alone, bodies)) else ()


def gateway(found: Attributes, family: int) -> str | None:
    """Return the next hop of a route; raises ValueError if it is malformed."""
    if _RTA_VIA in found:
        # An IPv4 destination behind an IPv6 gateway (RFC 8950): struct rtvia, a family and its address.
        via = found[_RTA_VIA]
        return rtnetlink.address({_RTA_VIA: via[2:]}, _RTA_VIA, int.from_bytes(via[:2], rtnetlink.ORDER))
    return rtnetlink.address(found, _RTA_GATEWAY, family)


def table_of(found: Attributes, body: bytes) -> int:
    """Return the number of a route's table, which may not fit into its byte of the header."""
    told = rtnetlink.number(found, _RTA_TABLE, 4)
    return body[_TABLE_AT] if told is None else told


def is_cloned(buffer: bytes, start: int) -> bool:
    """Tell whether the route whose body starts there is an exception that the kernel derived, as of path MTU."""
    return bool(_FLAGS.unpack_from(buffer, start)[0] & _CLONED)


def is_for_everywhere(buffer: bytes, start: int = 0) -> bool:
    """Tell whether the route whose body starts there is for every destination: of all sources, a default route."""
    return buffer[start + 1] == 0


def is_for_some_sources(buffer: bytes, start: int = 0) -> bool:
    """Tell whether the route whose body starts there is for packets of some sources only (`ip -6 route add … from`).

    A row has no column for that, and without it would be another route.
    """
    return buffer[start + 2] != 0


def _granted(found: list[list[Taken]], limit: int) -> list[list[int]]:
    """Return of how many next hops of each route of each family the report tells."""
    first = _shared([[len(route.hops) for route in routes] for routes in found], limit)
    defaults = [
        [len(route.hops) - most if most < len(route.hops) and route.is_default else 0 for route, most in each]
        for each in map(zip, found, first)
    ]
    return [list(map(add, *each)) for each in zip(first, _shared(defaults, limit), strict=True)]


def _shared(sizes: list[list[int]], limit: int) -> list[list[int]]:
    return [whole(each, share) for each, share in zip(sizes, shares(limit, list(map(sum, sizes))), strict=True)]


def _main_table(family: int, limit: int) -> Listed:
    def room(buffer: bytes, start: int) -> int | None:
        if buffer[start] != family or buffer[start + _TABLE_AT] != MAIN_TABLE or is_cloned(buffer, start):
            return None
        if is_for_some_sources(buffer, start):
            return 0
        return 2 * limit if is_for_everywhere(buffer, start) else limit

    def first(channel: Channel, asked: bytes) -> Listed:
        return channel.dump(RTM_GETROUTE, asked, room, least=HEADER.size)

    return read_table(family, MAIN_TABLE, first)


def count_rows(found: Iterable[Taken], listed: Listed) -> int:
    """Return how many rows a table would be; of a route that was not kept nobody knows more than one next hop."""
    return sum(len(route.hops) for route in found) + listed.total - len(listed.bodies)


def taken_apart(body: bytes, objects: Hops) -> Taken:
    """Return what a message says; raises ValueError if it is malformed."""
    taken, number = _taken_apart(body)
    return taken if number is None else taken._replace(hops=objects.get(number, taken.hops))


def rows(taken: Taken, names: Mapping[int, str], most: int) -> Iterator[Route]:
    """Yield a row for each of the first `most` next hops."""
    of = taken.route
    for oif, via in taken.hops[:most]:
        interface = None if oif is None else names.get(oif) or f"if{oif}"
        # _replace takes more than twice as long.
        yield Route(of.destination, via, interface, of.source, of.metric, of.protocol, of.type)


# That costs more than all else of a report, and most routes are what they were a report ago, byte for byte.
@lru_cache(maxsize=4096)
def _taken_apart(body: bytes) -> tuple[Taken, int | None]:
    """Return what a message says by itself, and the number of the object that stands for its next hops, if any."""
    family, length, _, _, _, protocol, _, kind, _ = rtnetlink.header(HEADER, body)
    found = rtnetlink.attributes(body, HEADER.size)
    hops = tuple(_hops(found, family))
    route = Route(
        destination=_destination(found, family, length),
        gateway=None,
        interface=None,
        source=rtnetlink.address(found, _RTA_PREFSRC, family),
        metric=rtnetlink.number(found, _RTA_PRIORITY, 4) or 0,
        protocol=_PROTOCOLS.get(protocol, str(protocol)),
        type=_TYPES[kind] if kind < len(_TYPES) else str(kind),
    )
    number = rtnetlink.number(found, _RTA_NH_ID, 4)
    return Taken(route, hops), number if _RTA_MULTIPATH not in found and hops[0].oif is None else None


def _names_an_object_alone(body: bytes) -> bool:
    # Most do not have its number anywhere, and need not be taken apart for that.
    if _NH_ID_BEGINS not in body:
        return False
    found = rtnetlink.attributes(body, HEADER.size)
    return _RTA_NH_ID in found and _RTA_OIF not in found and _RTA_MULTIPATH not in found


def _hops(found: Attributes, family: int) -> Iterator[Hop]:
    if _RTA_MULTIPATH in found:
        yield from _paths(found[_RTA_MULTIPATH], family)
    else:
        yield Hop(rtnetlink.number(found, _RTA_OIF, 4), gateway(found, family))


def _paths(hops: bytes, family: int) -> Iterator[Hop]:
    at = 0
    while at < len(hops):
        length, _, _, index = rtnetlink.header(_HOP, hops[at:])
        if not _HOP.size <= length <= len(hops) - at:
            raise ValueError(f"a next hop of {length} bytes where {len(hops) - at} are left")
        yield Hop(index, gateway(rtnetlink.attributes(hops[at : at + length], _HOP.size), family))
        at += (length + 3) & ~3


def _destination(found: Attributes, family: int, length: int) -> str:
    shown = rtnetlink.prefix(found, _RTA_DST, family, length)
    value = found.get(_RTA_DST, b"")
    host_bits = 8 * len(value) - length
    if value and host_bits and int.from_bytes(value, "big") & ((1 << host_bits) - 1):
        raise ValueError(f"the destination {shown} has bits beyond its prefix")
    return shown
