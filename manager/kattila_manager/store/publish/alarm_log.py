"""Writes the alarm log (the `alarms` table)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, insert, update

from kattila_manager.alarms.alarm_rules import Amended, Closed, Event, Opened
from kattila_manager.store.schema import alarms


def record(connection: Connection, events: Iterable[Event]) -> None:
    """Write these events; the caller commits."""
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
