"""Writes a worker's refusal counters and heartbeats to the `refusals` and `receivers` tables."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, delete, func, insert, select, update

from kattila_manager.records import RefusalCount
from kattila_manager.store.ingest.refusal_counters import RefusalCounters
from kattila_manager.store.schema import receivers, refusals

HEARTBEAT_MS = 5000
# After a longer gap between heartbeats, the server counts as absent.
ABSENCE_MS = 4 * HEARTBEAT_MS
_COUNTERS_MS = 1000


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
            for count in counts:
                add_refusals(connection, count)
        except Exception:
            self._counters.put_back(counts)
            raise


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
