"""Prunes what a flood of agents leaves behind: old closed alarms, refusals, and forgotten agents without reports.

In slices, so that writers never wait long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Engine, Select, delete, exists, func, select

from kattila_manager.store.database import WriteLock
from kattila_manager.store.read.queries import IS_FORGOTTEN
from kattila_manager.store.schema import agents, alarms, forgotten, refusals, reports

SLICE = 1000
# Whatever their age, so that the alarm log stays small.
MOST_CLOSED_ALARMS = 20_000
# Refusals of unknown agents are evidence for an alarm only for some minutes.
_STRANGERS_MS = 60 * 60 * 1000

_Doomed = tuple[Column[Any], Select[Any]]


def prune(engine: Engine, lock: WriteLock, age_ms: int, now: int, may_continue: Callable[[], bool]) -> int:
    """Remove everything that is older than `age_ms` and no longer needed; return the number of rows.

    `may_continue` is called between slices. It may wait a little, and return False to postpone the rest.
    """
    removed = 0
    for key, doomed in _doomed(now, now - age_ms):
        while (rows := _remove(engine, lock, key, doomed)) > 0:
            removed += rows
            if not may_continue():
                return removed
    return removed


def _remove(engine: Engine, lock: WriteLock, key: Column[Any], doomed: Select[Any]) -> int:
    # Looked up without the lock first, because usually there is nothing.
    with engine.connect() as connection:
        if connection.execute(doomed.limit(1)).first() is None:
            return 0
    with lock.transaction(engine) as connection:
        return _delete(connection, key, doomed)


def _delete(connection: Connection, key: Column[Any], doomed: Select[Any]) -> int:
    return connection.execute(delete(key.table).where(key.in_(doomed.limit(SLICE)))).rowcount


def _doomed(now: int, before: int) -> tuple[_Doomed, ...]:
    """Return keys, and the selections of those whose rows go."""
    is_closed = alarms.c.closed_at.is_not(None) & ~_is_needed()
    surplus = select(alarms.c.id).where(alarms.c.closed_at.is_not(None)).order_by(alarms.c.id.desc())
    newest_surplus = func.coalesce(surplus.offset(MOST_CLOSED_ALARMS).limit(1).scalar_subquery(), 0)
    is_stranger = (refusals.c.agent_id != "") & ~exists().where(agents.c.agent_id == refusals.c.agent_id)
    long_forgotten = select(forgotten.c.agent_ref).where(forgotten.c.forgotten_at < before)
    is_empty = ~exists().where(reports.c.agent_ref == agents.c.ref)
    return (
        (alarms.c.id, select(alarms.c.id).where(is_closed, alarms.c.closed_at < before)),
        (alarms.c.id, select(alarms.c.id).where(is_closed, alarms.c.id <= newest_surplus)),
        (refusals.c.agent_id, select(refusals.c.agent_id).where(is_stranger, refusals.c.last_at < now - _STRANGERS_MS)),
        (agents.c.ref, select(agents.c.ref).where(IS_FORGOTTEN, is_empty, agents.c.ref.in_(long_forgotten))),
    )


def _is_needed() -> ColumnElement[bool]:
    """Return whether an alarm says how much of a counter was counted already: the newest one of a known subject."""
    newer = alarms.alias("newer")
    is_newest = ~exists().where(
        newer.c.kind == alarms.c.kind,
        newer.c.agent_id.is_not_distinct_from(alarms.c.agent_id),
        newer.c.id > alarms.c.id,
    )
    is_known = alarms.c.agent_id.is_(None) | exists().where(agents.c.agent_id == alarms.c.agent_id)
    return alarms.c.counter.is_not(None) & is_newest & is_known
