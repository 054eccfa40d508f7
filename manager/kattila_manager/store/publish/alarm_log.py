"""Writes the alarm log (the `alarms` table)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from sqlalchemy import Connection, insert, update

from kattila_manager.alarms.alarm_rules import Amended, Closed, Event, Opened
from kattila_manager.store.publish.savepoints import write_each
from kattila_manager.store.schema import alarms


def record(connection: Connection, events: Iterable[Event]) -> tuple[tuple[Event, Exception], ...]:
    """Write these events; the caller commits. Returns those that could not be written, with their errors."""
    return write_each(connection, events, partial(_record, connection))


def _record(connection: Connection, event: Event) -> None:
    if isinstance(event, Opened):
        kind, agent_id = event.subject
        columns: dict[str, Any] = {"opened_at": event.opened_at, "last_at": event.last_at, "count": event.count}
        columns |= {"kind": kind, "agent_id": agent_id, "counter": event.counter, "detail": event.detail}
        connection.execute(insert(alarms).values(columns))
        return
    if isinstance(event, Closed):
        columns = {"closed_at": event.closed_at}
    elif isinstance(event, Amended):
        columns = {"detail": event.detail}
    else:
        columns = {"last_at": event.last_at, "count": event.count, "counter": event.counter, "detail": event.detail}
    connection.execute(update(alarms).where(alarms.c.id == event.alarm.alarm_id).values(columns))
