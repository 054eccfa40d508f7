"""The default routes of the tables that policy rules look up, as `ip route show default table …` shows them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from kattila_agent.collectors import link_table, nexthops, routes
from kattila_agent.collectors.limits import Bounded, cut, whole
from kattila_agent.collectors.netlink.codecs.rtnetlink import ROUTE
from kattila_agent.collectors.netlink.transport import Listed, NetlinkChannel
from kattila_protocol.report import PolicyRoute, Rule

# Each table takes a separate dump.
_MAX_TABLES = 64
_LOCAL_TABLE = 255
_REPORTED_ELSEWHERE = frozenset((0, routes.MAIN_TABLE, _LOCAL_TABLE))
_ANY = "0.0.0.0/"
_header = ROUTE.reader("family", "dst_len", "src_len", "tos", "flags")


@dataclass(frozen=True, slots=True)
class PolicyRouteReadings:
    """The default routes that the kernel returned, as in RouteReadings; `read_tables` of `tables` were read."""

    defaults: tuple[Listed, ...]
    read_tables: int
    tables: int
    names: Mapping[int, str]
    objects: tuple[bytes, ...] = ()


def read(rules: Iterable[Rule], limit: int) -> PolicyRouteReadings:
    """Read the default routes of the tables that rules look up, except main and local (rtnetlink(7)).

    Reads at most 64 tables, and the first `limit` routes of each. Raises OSError or ValueError.
    """
    wanted = tables(rules, _vrf_tables)
    selected = wanted[:_MAX_TABLES]
    found = tuple(
        routes.read_table(family, table, partial(defaults, family=family, table=table, limit=limit))
        for family, table in selected
    )
    names = link_table.read_by_index(link_table.name) if selected else {}
    objects = routes.read_objects(body for listed in found for body in listed.bodies)
    return PolicyRouteReadings(found, len(selected), len(wanted), names, objects)


def parse(readings: PolicyRouteReadings, limit: int) -> Bounded[PolicyRoute]:
    """Return the default routes in the order of the rules: at most `limit` rows, made as by `routes.parse`.

    Raises:
        ValueError: a message is malformed, or lacks what every route has.
    """
    bodies = [body for listed in readings.defaults for body in listed.bodies][:limit]
    found = routes.decoded(bodies, nexthops.parse(readings.objects))
    counts = whole([len(route.hops) for route in found], limit)
    rows = tuple(
        PolicyRoute(route.table, *row)
        for route, most in zip(found, counts, strict=True)
        for row in routes.rows(route, readings.names, most)
    )
    marked = tuple(
        mark
        for route, most in zip(found, counts, strict=True)
        for mark in routes.marks(route.table, route, readings.names, most)
    )
    of = routes.count_rows(found, Listed(bodies, sum(listed.total for listed in readings.defaults)))
    return Bounded(
        rows,
        cut("policy_routes", len(rows), of) + cut("policy_tables", readings.read_tables, readings.tables),
        marks={"route_marks": marked},
    )


def tables(rules: Iterable[Rule], read_vrf_tables: Callable[[], list[int]]) -> list[tuple[int, int]]:
    """Return (family, table) of each lookup, without repetition, in the order of the rules.

    A rule for `l3mdev` looks up the tables of all VRFs, which are only read if there is such a rule.
    """
    found: dict[tuple[int, int], None] = {}
    of_vrfs: list[int] | None = None
    for rule in rules:
        if rule.action != "lookup" or rule.family not in routes.FAMILIES:
            continue
        family = routes.FAMILIES[rule.family]
        if "l3mdev" in rule.other:
            of_vrfs = read_vrf_tables() if of_vrfs is None else of_vrfs
            found |= dict.fromkeys((family, table) for table in of_vrfs)
        elif rule.table not in _REPORTED_ELSEWHERE:
            found[family, rule.table] = None
    return list(found)


def defaults(channel: NetlinkChannel, request: bytes, *, family: int, table: int, limit: int) -> Listed:
    """Return the default routes of a table, of which the first `limit` are kept.

    An IPv4 table is only read up to the first route that is not a default route.
    """
    bodies: list[bytes] = []
    total = 0
    for body in channel.each(ROUTE.request, request, least=ROUTE.size):
        message_family, length, source_length, tos, flags = _header(body)
        if message_family != family or flags & routes.CLONED or (length and family != socket.AF_INET):
            continue
        route = routes.decode(body)
        if route.table != table:
            continue
        if not length:
            total += 1
            if len(bodies) < limit and not source_length and not tos:
                bodies.append(body)
        elif not route.route.destination.startswith(_ANY):
            # The kernel lists IPv4 routes in the order of their destinations.
            break
    return Listed(bodies, total)


def _vrf_tables() -> list[int]:
    numbers = (link.details.get("IFLA_VRF_TABLE") for link in link_table.read_kind("vrf"))
    return [number for number in numbers if number is not None]
