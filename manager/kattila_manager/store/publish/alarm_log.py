"""What publishing writes: the event log of alarms, and the interfaces of each agent's newest measurement.

May live here: the statements on `alarms` and `agent_interfaces`, which nobody else writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from kattila_manager.alarms.alarm_rules import Amended, Closed, Event, Opened
from kattila_manager.store.schema import agent_interfaces, agents, alarms
from kattila_protocol.report import Interface


@dataclass(frozen=True, slots=True)
class Outdated:
    """An agent whose rows in agent_interfaces are not those of its newest report, or that has none."""

    agent_ref: int
    report_id: int
    has_rows: bool


def record(connection: Connection, events: Iterable[Event]) -> None:
    """Write events; the caller commits."""
    for event in events:
        if isinstance(event, Opened):
            kind, agent_id = event.subject
            columns: dict[str, Any] = {"opened_at": event.opened_at, "last_at": event.last_at, "count": event.count}
            columns |= {"kind": kind, "agent_id": agent_id, "counter": event.counter, "detail": event.detail}
            connection.execute(insert(alarms).values(columns))
        elif isinstance(event, Closed):
            mine = alarms.c.id == event.alarm.alarm_id
            connection.execute(update(alarms).where(mine).values(closed_at=event.closed_at))
        elif isinstance(event, Amended):
            mine = alarms.c.id == event.alarm.alarm_id
            connection.execute(update(alarms).where(mine).values(detail=event.detail))
        else:
            mine = alarms.c.id == event.alarm.alarm_id
            columns = {"last_at": event.last_at, "count": event.count, "counter": event.counter, "detail": event.detail}
            connection.execute(update(alarms).where(mine).values(columns))


def outdated_interfaces(connection: Connection) -> tuple[Outdated, ...]:
    """Return whose interfaces are to be written anew."""
    shown = func.max(agent_interfaces.c.report_id)
    query = (
        select(agents.c.ref, agents.c.latest_report_id, shown)
        .outerjoin(agent_interfaces, agent_interfaces.c.agent_ref == agents.c.ref)
        .where(agents.c.latest_report_id.is_not(None))
        .group_by(agents.c.ref)
        .having(func.coalesce(shown, 0) != agents.c.latest_report_id)
    )
    return tuple(Outdated(ref, latest, last is not None) for ref, latest, last in connection.execute(query))


def replace_interfaces(connection: Connection, measured: Sequence[tuple[Outdated, Sequence[Interface]]]) -> None:
    """Replace the interfaces of some agents; the caller commits."""
    refs = [outdated.agent_ref for outdated, _ in measured]
    connection.execute(delete(agent_interfaces).where(agent_interfaces.c.agent_ref.in_(refs)))
    rows = [row for outdated, interfaces in measured for row in _rows(outdated, interfaces)]
    if rows:
        connection.execute(insert(agent_interfaces), rows)


def _rows(outdated: Outdated, interfaces: Sequence[Interface]) -> list[dict[str, Any]]:
    # By name, since nothing keeps a report from naming one twice.
    by_name = {interface.name: interface for interface in interfaces}
    return [
        {
            "agent_ref": outdated.agent_ref,
            "name": name,
            "kind": interface.kind,
            "address": interface.address,
            "addresses": ",".join(interface.addresses),
            "operstate": interface.operstate,
            "mtu": interface.mtu,
            "report_id": outdated.report_id,
        }
        for name, interface in by_name.items()
    ]
