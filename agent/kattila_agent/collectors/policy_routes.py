"""The default routes of the tables that policy rules lead to, as `ip route show default table …` shows them.

May live here: which tables those are, and reading what is told of them. Not here: the rules themselves (rules), and
what a route says (routes).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from kattila_agent.collectors import link_table, nexthops, routes
from kattila_agent.collectors.bounds import Bounded, cut, whole
from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Channel, Listed
from kattila_protocol.report import PolicyRoute, Rule

# Each is a dump of its own.
_MAX_TABLES = 64
_LOCAL_TABLE = 255
_KNOWN = frozenset((0, routes.MAIN_TABLE, _LOCAL_TABLE))
# linux/if_link.h
_VRF_TABLE = 1
_ANY = bytes(4)
_RTA_DST = 1


@dataclass(frozen=True, slots=True)
class Readings:
    """What the kernel says of default routes, as in routes.Readings; `asked` of `tables` were asked for."""

    defaults: tuple[Listed, ...]
    asked: int
    tables: int
    names: Mapping[int, str]
    objects: tuple[bytes, ...] = ()


def read(rules: Iterable[Rule], limit: int) -> Readings:
    """Ask the kernel for the default routes of the tables that rules look up, main and local aside.

    Of 64 tables at most, and of each the first `limit`. Raises OSError or ValueError.
    """
    wanted = tables(rules, _vrf_tables)
    asked = wanted[:_MAX_TABLES]
    found = tuple(_read(family, table, limit) for family, table in asked)
    names = link_table.names_by_index() if asked else {}
    objects = routes.read_objects(body for listed in found for body in listed.bodies)
    return Readings(found, len(asked), len(wanted), names, objects)


def parse(readings: Readings, limit: int) -> Bounded[PolicyRoute]:
    """Return these default routes, in the order of the rules; as routes.parse does, `limit` rows at most.

    Raises:
        ValueError: a message is malformed or lacks what every route has.
    """
    bodies = [body for listed in readings.defaults for body in listed.bodies][:limit]
    objects = nexthops.parse(readings.objects)
    found = [routes.taken_apart(body, objects) for body in bodies]
    told = tuple(
        PolicyRoute(_table(body), *row)
        for body, route, most in zip(bodies, found, whole([len(each.hops) for each in found], limit), strict=True)
        for row in routes.rows(route, readings.names, most)
    )
    of = routes.count_rows(found, Listed(bodies, sum(listed.total for listed in readings.defaults)))
    return Bounded(told, cut("policy_routes", len(told), of) + cut("policy_tables", readings.asked, readings.tables))


def tables(rules: Iterable[Rule], vrf_tables: Callable[[], list[int]]) -> list[tuple[int, int]]:
    """Return (family, table) of each lookup, once, in the order of the rules.

    A rule for `l3mdev` leads to the tables of all VRFs, which are asked for only if there is one.
    """
    return list(dict.fromkeys(_lookups(rules, vrf_tables)))


def defaults(channel: Channel, question: bytes, family: int, table: int, limit: int) -> Listed:
    """Read the default routes of a table, the first `limit` of them, and of IPv4 little more: they come early there."""
    bodies: list[bytes] = []
    total = 0
    for body in channel.each(routes.RTM_GETROUTE, question, least=routes.HEADER.size):
        if body[0] != family or routes.is_cloned(body, 0):
            continue
        if routes.is_for_everywhere(body):
            is_ours = _table(body) == table
            total += is_ours
            if is_ours and len(bodies) < limit and not routes.is_for_some_sources(body):
                bodies.append(body)
        elif family == socket.AF_INET and _table(body) == table and _destination(body) != _ANY:
            # The kernel tells IPv4 in the order of destinations.
            break
    return Listed(bodies, total)


def _lookups(rules: Iterable[Rule], vrf_tables: Callable[[], list[int]]) -> Iterator[tuple[int, int]]:
    of_vrfs: list[int] | None = None
    for rule in rules:
        if rule.action != "lookup" or rule.family not in routes.FAMILIES:
            continue
        if "l3mdev" in rule.other:
            of_vrfs = vrf_tables() if of_vrfs is None else of_vrfs
            yield from ((routes.FAMILIES[rule.family], table) for table in of_vrfs)
        elif rule.table not in _KNOWN:
            yield routes.FAMILIES[rule.family], rule.table


def _vrf_tables() -> list[int]:
    numbers = (rtnetlink.number(link.details, _VRF_TABLE, 4) for link in link_table.of_kind("vrf"))
    return [number for number in numbers if number is not None]


def _read(family: int, table: int, limit: int) -> Listed:
    return routes.read_table(family, table, lambda channel, asked: defaults(channel, asked, family, table, limit))


def _table(body: bytes) -> int:
    return routes.table_of(rtnetlink.attributes(body, routes.HEADER.size), body)


def _destination(body: bytes) -> bytes:
    return rtnetlink.attributes(body, routes.HEADER.size).get(_RTA_DST, _ANY)
