"""The reports and reboots of one agent over time.

A history has all samples of an agent in order, each at the time of its measurement, late ones too. It needs no index:
an agent's sample numbers grow with the times of measurement, so a binary search finds a time. Around a step of the
clock, it may miss by a few reports.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Connection, Select, func, select

from kattila_manager.records import Arrival
from kattila_manager.store.schema import agent_boots, agents, alarms, reports

_MEASURED_AT = func.coalesce(reports.c.sampled_at, reports.c.received_at)
_ARRIVAL = (
    reports.c.id,
    reports.c.sample,
    reports.c.received_at,
    reports.c.sampled_at,
    reports.c.relay_path,
)


def arrivals(
    connection: Connection, agent_ref: int, since: int | None = None, until: int | None = None
) -> list[Arrival]:
    """Return how an agent's reports arrived, ordered by sample, for samples measured from `since` to `until`.

    Both are ms UTC and inclusive; None means unbounded.
    """
    mine = reports.c.agent_ref == agent_ref
    moments = select(reports.c.sample, _MEASURED_AT).where(mine)
    wanted = select(*_ARRIVAL).where(mine).order_by(reports.c.sample)
    if since is not None:
        wanted = wanted.where(reports.c.sample >= _first_from(connection, moments, reports.c.sample, since))
    if until is not None:
        wanted = wanted.where(reports.c.sample < _first_from(connection, moments, reports.c.sample, until + 1))
    return [Arrival(*row) for row in connection.execute(wanted)]


def reboots(connection: Connection, agent_ref: int) -> list[int]:
    """Return when (ms UTC) each boot of an agent was first seen, except the boot at which the id was bound."""
    held = (agent_boots.c.agent_ref == agent_ref) & (agent_boots.c.refused == 0) & ~agent_boots.c.boot_id.contains("/")
    seen = select(agent_boots.c.first_seen_at).where(held).order_by(agent_boots.c.first_seen_at)
    return list(connection.execute(seen).scalars())[1:]


def late_during(connection: Connection, kind: str, closed_since: int) -> dict[int, int]:
    """Count, by alarms.id, the late samples of an agent that were measured while its alarm of this kind was open.

    Only alarms closed at `closed_since` (ms UTC) or later count; alarms without such samples are left out.
    """
    lasted = (alarms.c.kind == kind) & (alarms.c.closed_at >= closed_since)
    during = reports.c.sampled_at.between(alarms.c.opened_at, alarms.c.closed_at)
    query = (
        select(alarms.c.id, func.count())
        .join(agents, agents.c.agent_id == alarms.c.agent_id)
        .join(reports, (reports.c.agent_ref == agents.c.ref) & during)
        .where(lasted)
        .group_by(alarms.c.id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _first_from(connection: Connection, moments: Select[Any], number: Column[Any], at: int) -> int:
    """Return the first number whose time is `at` or later; `moments` selects number and time, which grow together."""
    low, high = _end(connection, moments, number.asc()), _end(connection, moments, number.desc())
    while low <= high:
        middle = (low + high) // 2
        found = connection.execute(moments.where(number >= middle).order_by(number).limit(1)).first()
        if found is None or found[1] >= at:
            high = middle - 1
        else:
            low = found[0] + 1
    return low


def _end(connection: Connection, moments: Select[Any], order: Any) -> int:
    row = connection.execute(moments.order_by(order).limit(1)).first()
    return 0 if row is None else int(row[0])
