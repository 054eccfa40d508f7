"""Group commit: one thread that files what several requests brought, and answers after the commit.

May live here: queueing, the transaction around a batch, and what happens when it fails. Not here: what a
batch becomes (filing), or who waits (door, answers).
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from kattila_manager.records import Filed, Incoming, refused
from kattila_manager.store.database import WriteLock, begun
from kattila_manager.store.ingest.compression_groups import Groups, Prepared
from kattila_manager.store.ingest.filing import Filing
from kattila_protocol.errors import Overloaded

MAX_BATCH = 512
# About half a second of work; more is answered with 503 at once.
MAX_PENDING = 4096
# Below the six seconds that an agent gives a relay, and the ten that it gives us, so that it hears this answer and does
# not take us for unreachable.
COMMIT_SECONDS = 5.0
_RETRY_AFTER_SECONDS = 5
# How often the thread looks up while nothing comes in, to write counters and its heartbeat.
_IDLE_SECONDS = 1.0

_log = logging.getLogger("kattila.store")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A report, and the future that takes what became of it."""

    prepared: Prepared
    future: Any


Answer = tuple[Any, Filed]


class Writer:
    """The one thread of a process that files reports."""

    def __init__(
        self,
        engine: Engine,
        lock: WriteLock,
        deliver: Callable[[Sequence[Answer]], object],
        beside: Callable[[Connection], object],
    ) -> None:
        """Join the database with those who wait.

        `deliver` is called after each commit with (future, result) pairs; `beside` may write counters and heartbeat in
        the same transaction, and when nothing came in for a second.
        """
        self._engine = engine
        self._lock = lock
        self._deliver = deliver
        self._beside = beside
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._groups = Groups()
        self._first: list[Waiting] = []
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """File what is waiting and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def submit(self, incoming: Incoming, future: Any) -> None:
        """Compress a report and queue it. Raises Overloaded when too many are waiting."""
        if self._queue.qsize() >= MAX_PENDING:
            raise Overloaded(f"{MAX_PENDING} reports are waiting to be filed", retry_after_seconds=_RETRY_AFTER_SECONDS)
        self._queue.put(Waiting(self._groups.prepare(incoming), future))

    def _run(self) -> None:
        while self._wait():
            # Whatever comes in while another process writes goes into the next transaction of this one.
            with self._lock.held():
                results = self._commit(self._gather())
            self._deliver(results)

    def _wait(self) -> bool:
        with contextlib.suppress(queue.Empty):
            first = self._queue.get(timeout=_IDLE_SECONDS)
            if first is None:
                return False
            self._first = [first]
        return True

    def _gather(self) -> list[Waiting]:
        batch, self._first = self._first, []
        while len(batch) < MAX_BATCH and not self._queue.empty():
            waiting = self._queue.get()
            if waiting is None:
                self._queue.put(None)
                break
            batch.append(waiting)
        return batch

    def _commit(self, batch: Sequence[Waiting]) -> list[Answer]:
        try:
            answers = self._transact(batch)
        except OperationalError as error:
            return self._give_up(batch, error)
        except Exception as error:
            if len(batch) > 1:
                # One report that cannot be filed must not take the others with it.
                return [answer for waiting in batch for answer in self._commit([waiting])]
            return self._give_up(batch, error)
        if self._failing:
            self._failing = False
            _log.info("reports are filed again")
        return answers

    def _transact(self, batch: Sequence[Waiting]) -> list[Answer]:
        prepared = [waiting.prepared for waiting in batch]
        with begun(self._engine) as connection:
            results = _file(connection, prepared)
            self._beside(connection)
        for one, result in zip(prepared, results, strict=True):
            if result.report_id is not None:
                self._groups.committed(one, result.report_id)
        return [(waiting.future, result) for waiting, result in zip(batch, results, strict=True)]

    def _give_up(self, batch: Sequence[Waiting], error: Exception) -> list[Answer]:
        if not self._failing:
            self._failing = True
            reason = error.orig if isinstance(error, DBAPIError) else error
            _log.error("reports cannot be filed (%s); agents keep them and try again", reason)
        result = refused(Overloaded("the report could not be stored", retry_after_seconds=_RETRY_AFTER_SECONDS))
        return [(waiting.future, result) for waiting in batch]


def not_in_time() -> Filed:
    """Return what the sender of a report is told whose commit takes too long.

    It may be filed all the same; then it is a duplicate when it comes again.
    """
    detail = f"the report was not stored within {COMMIT_SECONDS:.0f} s"
    return refused(Overloaded(detail, retry_after_seconds=_RETRY_AFTER_SECONDS))


def _file(connection: Connection, prepared: Sequence[Prepared]) -> list[Filed]:
    if not prepared:
        return []
    return Filing(connection, [one.incoming.report.agent_id for one in prepared]).file(prepared)
