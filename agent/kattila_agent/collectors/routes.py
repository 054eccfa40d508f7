"""The routes of both families: of the main table all, of the tables that policy rules look up the default ones.

As `ip -details route show table …` shows them.

May live here: reading routes and naming what they hold. Not here: the rules themselves (rules).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kattila_agent.collectors import link_table, rtnetlink
from kattila_agent.collectors.bounds import Bounded, cut, shares
from kattila_agent.collectors.rtnetlink import Attributes, Listed
from kattila_protocol.report import PolicyRoute, Route, Rule

# linux/rtnetlink.h
_RTM_GETROUTE = 26
_ROUTE = struct.Struct("=BBBBBBBBI")
_FLAGS = struct.Struct("=8xI")
_TABLE = struct.Struct("=I")
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_MULTIPATH = 1, 4, 5, 6, 7, 9
_RTA_TABLE, _RTA_VIA = 15, 18
_HOP = struct.Struct("=HBBi")
_FAMILIES = {socket.AF_INET: "inet", socket.AF_INET6: "inet6"}

_MAIN_TABLE = 254
_LOCAL_TABLE = 255
_COMPAT_TABLE = 252
# Each is a dump of its own, of all that the table holds.
_MAX_POLICY_TABLES = 64
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
    """What the kernel says: RTM_NEWROUTE of both families, and the names of the links by index."""

    inet: Listed
    inet6: Listed
    names: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class PolicyReadings:
    """What the kernel says of the default routes of other tables: RTM_NEWROUTE; `asked` of `tables` were asked for."""

    defaults: tuple[Listed, ...]
    asked: int
    tables: int
    names: Mapping[int, str]


def read(limit: int) -> Readings:
    """Ask the kernel for the main table of both families, of each the first `limit` and as many default routes more.

    The others are counted: a million take 1 s. Raises OSError or ValueError.
    """
    inet, inet6 = (_dump(family, _MAIN_TABLE, limit) for family in _FAMILIES)
    return Readings(inet, inet6, link_table.names_by_index())


def parse(readings: Readings, limit: int) -> Bounded[Route]:
    """Return the routes in the kernel's order; one with several next hops becomes one route for each.

    Of each family at least half of the limit, if there are so many, and beyond it its default routes, as many as were
    read: who floods a segment with router advertisements makes thousands of them.

    Raises:
        ValueError: a message is malformed or lacks what every route has.
    """
    families = (readings.inet, readings.inet6)
    granted = shares(limit, [family.total for family in families])
    told: list[Route] = []
    messages = 0
    for family, share in zip(families, granted, strict=True):
        for number, body in enumerate(family.bodies):
            if number < share or _is_default(body, 0):
                told += _routes(body, readings.names)
                messages += 1
    return Bounded(tuple(told), cut("routes", messages, sum(family.total for family in families)))


def read_policy(rules: Iterable[Rule], limit: int) -> PolicyReadings:
    """Ask the kernel for the default routes of the tables that rules look up, main and local aside.

    Of 64 tables at most. Raises OSError or ValueError.
    """
    wanted = _policy_tables(rules)
    asked = wanted[:_MAX_POLICY_TABLES]
    found = tuple(_dump(family, table, limit, defaults_only=True) for family, table in asked)
    return PolicyReadings(found, len(asked), len(wanted), link_table.names_by_index() if asked else {})


def parse_policy(readings: PolicyReadings, limit: int) -> Bounded[PolicyRoute]:
    """Return these default routes, in the order of the rules; one with several next hops becomes one for each.

    Raises:
        ValueError: a message is malformed or lacks what every route has.
    """
    bodies = [body for listed in readings.defaults for body in listed.bodies][:limit]
    # A kernel before 4.20 tells every table beyond 255 to each question.
    told = dict.fromkeys(
        PolicyRoute(_table(body), *route) for body in bodies for route in _routes(body, readings.names)
    )
    cuts = cut("policy_routes", len(bodies), sum(listed.total for listed in readings.defaults))
    return Bounded(tuple(told), cuts + cut("policy_tables", readings.asked, readings.tables))


def gateway(found: Attributes, family: int) -> str | None:
    """Return the next hop of a route; raises ValueError if it is malformed."""
    if _RTA_VIA in found:
        # An IPv4 destination behind an IPv6 gateway (RFC 8950): struct rtvia, a family and its address.
        via = found[_RTA_VIA]
        return rtnetlink.address({_RTA_VIA: via[2:]}, _RTA_VIA, int.from_bytes(via[:2], rtnetlink.ORDER))
    return rtnetlink.address(found, _RTA_GATEWAY, family)


def is_cloned(buffer: bytes, start: int) -> bool:
    """Tell whether the route whose body starts there is an exception that the kernel derived, as of path MTU."""
    return bool(_FLAGS.unpack_from(buffer, start)[0] & _CLONED)


def _is_default(buffer: bytes, start: int) -> bool:
    return buffer[start + 1] == 0


def _policy_tables(rules: Iterable[Rule]) -> list[tuple[int, int]]:
    """Return (family, table) of each lookup, once, in the order of the rules; `l3mdev` names its table elsewhere."""
    numbers = {name: number for number, name in _FAMILIES.items()}
    known = {0, _MAIN_TABLE, _LOCAL_TABLE}
    lookups = (rule for rule in rules if rule.action == "lookup" and rule.family in numbers and rule.table not in known)
    return list(dict.fromkeys((numbers[rule.family], rule.table) for rule in lookups))


def _dump(family: int, table: int, limit: int, *, defaults_only: bool = False) -> Listed:
    """Read the first `limit` routes of a table, and as many default routes more."""

    def counts(buffer: bytes, start: int) -> bool:
        # A kernel that does not filter tells all tables, and one without IPv6 answers with IPv4.
        belongs = buffer[start] == family and buffer[start + 4] == shown and not is_cloned(buffer, start)
        return belongs and (not defaults_only or _is_default(buffer, start))

    # What does not fit into its byte stands in an attribute alone.
    shown = table if table <= 0xFF else _COMPAT_TABLE
    question = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + rtnetlink.attribute(_RTA_TABLE, _TABLE.pack(table))
    try:
        return rtnetlink.dump(_RTM_GETROUTE, question, limit, least=_ROUTE.size, counts=counts, always=_is_default)
    except OSError as error:
        # A namespace has no such table before its first route.
        if error.errno != errno.ENOENT:
            raise
        return Listed([], 0)


def _table(body: bytes) -> int:
    told = rtnetlink.number(rtnetlink.attributes(body, _ROUTE.size), _RTA_TABLE, 4)
    return body[4] if told is None else told


def _routes(body: bytes, names: Mapping[int, str]) -> Iterator[Route]:
    family, length, _, _, _, protocol, _, kind, _ = rtnetlink.header(_ROUTE, body)
    found = rtnetlink.attributes(body, _ROUTE.size)
    for index, hop in _hops(found):
        yield Route(
            destination=_destination(found, family, length),
            gateway=gateway(hop, family),
            interface=None if index is None else names.get(index, f"if{index}"),
            source=rtnetlink.address(found, _RTA_PREFSRC, family),
            metric=rtnetlink.number(found, _RTA_PRIORITY, 4) or 0,
            protocol=_PROTOCOLS.get(protocol, str(protocol)),
            type=_TYPES[kind] if kind < len(_TYPES) else str(kind),
        )


def _hops(found: Attributes) -> Iterator[tuple[int | None, Attributes]]:
    """Yield the outgoing interface of each next hop, and the attributes that name its gateway."""
    if _RTA_MULTIPATH not in found:
        yield rtnetlink.number(found, _RTA_OIF, 4), found
        return
    hops, at = found[_RTA_MULTIPATH], 0
    while at < len(hops):
        length, _, _, index = rtnetlink.header(_HOP, hops[at:])
        if not _HOP.size <= length <= len(hops) - at:
            raise ValueError(f"a next hop of {length} bytes where {len(hops) - at} are left")
        yield index, rtnetlink.attributes(hops[at : at + length], _HOP.size)
        at += (length + 3) & ~3


def _destination(found: Attributes, family: int, length: int) -> str:
    shown = rtnetlink.prefix(found, _RTA_DST, family, length)
    bits = int.from_bytes(found.get(_RTA_DST, b""), "big")
    if bits & ((1 << (8 * len(found.get(_RTA_DST, b"")) - length if _RTA_DST in found else 0)) - 1):
        raise ValueError(f"the destination {shown} has bits beyond its prefix")
    return shown
