"""Writes a worker's refusal counters and heartbeats to the `refusals` and `receivers` tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from sqlalchemy import Column, Connection, delete, func, insert, select, update

from kattila_manager.records import RefusalCount
from kattila_manager.store.ingest.refusal_counters import RefusalCounters
from kattila_manager.store.schema import agents, receivers, refusals

HEARTBEAT_MS = 5000
# After a longer gap between heartbeats, the server counts as absent.
ABSENCE_MS = 4 * HEARTBEAT_MS
_COUNTERS_MS = 1000
# Unknown agents whose refusals are counted one by one, such as new nodes whose clocks are wrong.
_MAX_STRANGERS = 10
# Their alarms close after 15 quiet minutes.
_STRANGER_MS = 20 * 60 * 1000
# Ids in one query.
_SLICE = 500


class WorkerStatus:
    """Joins the writer's transactions, to write counters and heartbeats when they are due."""

    def __init__(self, counters: RefusalCounters, worker: int, clock: Callable[[], int]) -> None:
        """Write these counters, and heartbeats of the worker with this process id; `clock` returns ms UTC."""
        self._counters = counters
        self._worker = worker
        self._clock = clock
        self._beat_at = 0
        self._counted_at = 0

    def write_due(self, connection: Connection) -> None:
        """Write the counters and the heartbeat if they are due."""
        now = self._clock()
        if not 0 <= now - self._counted_at < _COUNTERS_MS:
            self._write_counters(connection)
            self._counted_at = now
        if not 0 <= now - self._beat_at < HEARTBEAT_MS:
            beat(connection, self._worker, now)
            self._beat_at = now

    def _write_counters(self, connection: Connection) -> None:
        counts = self._counters.take()
        try:
            for count in attributed(connection, counts, self._clock()):
                add_refusals(connection, count)
        except Exception:
            self._counters.put_back(counts)
            raise


def attributed(connection: Connection, counts: Sequence[RefusalCount], now: int) -> list[RefusalCount]:
    """Return the counts with those of unknown agents, beyond the first few, counted for unknown senders.

    A PSK holder can use any number of ids that never become agents.
    """
    counted = {count.agent_id for count in counts if count.agent_id}
    have_row = _among(connection, agents.c.agent_id, counted) | _among(connection, refusals.c.agent_id, counted)
    strangers = sorted(counted - have_row)
    have_row |= set(strangers[: _room_for_strangers(connection, now) if strangers else 0])
    found: dict[tuple[str, str | None], RefusalCount] = {}
    for count in counts:
        own = count if count.agent_id in have_row else replace(count, agent_id=None)
        first = found.get((own.kind, own.agent_id), replace(own, count=0))
        found[own.kind, own.agent_id] = replace(own, count=own.count + first.count, first_at=first.first_at)
    return list(found.values())


def _among(connection: Connection, column: Column[str], ids: Collection[str]) -> set[str]:
    """Return which of these ids a column has."""
    wanted, found = sorted(ids), set()
    for start in range(0, len(wanted), _SLICE):
        part = select(column).where(column.in_(wanted[start : start + _SLICE]))
        found |= set(connection.execute(part).scalars())
    return found


def _room_for_strangers(connection: Connection, now: int) -> int:
    """Return how many more unknown agents may have rows; rows that no alarm uses any more make room."""
    is_stranger = (refusals.c.agent_id != "") & refusals.c.agent_id.not_in(select(agents.c.agent_id))
    connection.execute(delete(refusals).where(is_stranger, refusals.c.last_at < now - _STRANGER_MS))
    rows = connection.execute(select(func.count(refusals.c.agent_id.distinct())).where(is_stranger)).scalar()
    return max(0, _MAX_STRANGERS - int(rows or 0))


def add_refusals(connection: Connection, count: RefusalCount) -> None:
    """Add to the counter of a kind and agent."""
    key = {"kind": count.kind, "agent_id": count.agent_id or ""}
    mine = (refusals.c.kind == key["kind"]) & (refusals.c.agent_id == key["agent_id"])
    newest = {"last_at": count.last_at, "detail": count.detail}
    added = connection.execute(update(refusals).where(mine).values(count=refusals.c.count + count.count, **newest))
    if added.rowcount == 0:
        connection.execute(insert(refusals).values(**key, count=count.count, first_at=count.first_at, **newest))


def beat(connection: Connection, worker: int, now: int) -> None:
    """Record that this worker is alive. It inherits the start time of live workers, so a restart is not an absence."""
    alive = receivers.c.alive_at.between(now - ABSENCE_MS, now + ABSENCE_MS)
    since = connection.execute(select(func.min(receivers.c.up_since)).where(alive)).scalar()
    connection.execute(delete(receivers).where((receivers.c.worker == worker) | ~alive))
    connection.execute(insert(receivers).values(worker=worker, up_since=now if since is None else since, alive_at=now))
