"""Group commit: one thread files the reports of several requests in one transaction, and resolves their futures."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from kattila_manager.records import Filed, VerifiedReport, refused
from kattila_manager.store.database import WriteLock, begun
from kattila_manager.store.ingest.admission import AdmissionLimits
from kattila_manager.store.ingest.compression_groups import CompressedReport, CompressionGroups
from kattila_manager.store.ingest.filing import Filing
from kattila_protocol.errors import Overloaded
from kattila_settings.failures import Failures, described, keep_running

MAX_BATCH = 512
# Ends a batch early, so that large reports hold the write lock no longer than many small ones: 4 MiB of DATA.
MAX_BATCH_BYTES = 4 * 1024 * 1024
# About half a second of work; further reports get a 503 at once.
MAX_PENDING = 4096
# In memory, a report takes several times as much as its DATA.
MAX_PENDING_BYTES = 32 * 1024 * 1024
# Below the six seconds that an agent waits for a relay and the ten that it waits for the manager. So it receives this
# answer and does not take the manager for unreachable.
COMMIT_SECONDS = 5.0
RETRY_AFTER_SECONDS = 5
# How often an idle thread writes counters and its heartbeat.
_IDLE_SECONDS = 1.0

# What can fail.
_FILING = "filing reports"
_STATUS = "writing counters and heartbeats"
_THREAD = "the writer's loop"

_log = logging.getLogger("kattila.store")


_Report = tuple[CompressedReport, Future[Filed]]
# None ends the thread.
_Queued = _Report | None


class Writer:
    """The one thread of a process that files reports."""

    def __init__(
        self,
        engine: Engine,
        lock: WriteLock,
        write_along: Callable[[Connection], object],
        limits: AdmissionLimits | None = None,
    ) -> None:
        """Write to this database.

        `write_along` may write counters and heartbeats in each transaction; it is also called after an idle second.
        `limits` are those on new agents, None if there are none.
        """
        self._engine = engine
        self._lock = lock
        self._write_along = write_along
        self._limits = limits
        self._queue: queue.SimpleQueue[_Queued] = queue.SimpleQueue()
        self._pending_bytes = 0
        self._counting = threading.Lock()
        self._groups = CompressionGroups()
        self._failures = Failures(_log)
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """File the reports that wait, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def submit(self, verified: VerifiedReport) -> Future[Filed]:
        """Compress and queue a report; return the future of its outcome. Raises Overloaded when too many wait."""
        if self._queue.qsize() >= MAX_PENDING or self._pending_bytes >= MAX_PENDING_BYTES:
            raise Overloaded("too many reports are waiting to be filed", retry_after_seconds=RETRY_AFTER_SECONDS)
        future: Future[Filed] = Future()
        # A running future cannot be cancelled, so the writer can always set its result.
        future.set_running_or_notify_cancel()
        compressed = self._groups.compress(verified)
        with self._counting:
            self._pending_bytes += len(verified.data)
        self._queue.put((compressed, future))
        return future

    def _run(self) -> None:
        keep_running(self._file_waiting, _THREAD, self._failures, time.sleep)

    def _file_waiting(self) -> bool:
        """File the reports that wait, or only counters after an idle second; return whether the thread continues."""
        queued: list[_Queued] = []
        with contextlib.suppress(queue.Empty):
            queued.append(self._queue.get(timeout=_IDLE_SECONDS))
        try:
            with self._lock.held():
                # Reports that arrived while another process was writing join this transaction.
                size = sum(len(each[0].verified.data) for each in queued if each)
                while len(queued) < MAX_BATCH and size < MAX_BATCH_BYTES and not self._queue.empty():
                    queued.append(more := self._queue.get())
                    size += len(more[0].verified.data) if more else 0
                outcomes = self._commit([each[0] for each in queued if each is not None])
        except Exception as error:
            # For example, the lock cannot be taken. The requests that wait for these reports still get an answer.
            outcomes = self._refuse(len(queued) - queued.count(None), error)
        with self._counting:
            self._pending_bytes -= sum(len(each[0].verified.data) for each in queued if each)
        futures = [each[1] for each in queued if each is not None]
        for future, filed in zip(futures, outcomes, strict=True):
            future.set_result(filed)
        return None not in queued

    def _commit(self, batch: Sequence[CompressedReport]) -> list[Filed]:
        try:
            with begun(self._engine) as connection:
                outcomes = Filing(connection, self._limits).file(batch) if batch else []
                self._write_status(connection)
        except OperationalError as error:
            return self._refuse(len(batch), error)
        except Exception as error:
            if len(batch) > 1:
                # One report that cannot be filed must not block the others.
                return [filed for each in batch for filed in self._commit([each])]
            return self._refuse(len(batch), error)
        for compressed, filed in zip(batch, outcomes, strict=True):
            if filed.report_id is not None:
                self._groups.note_commit(compressed, filed.report_id)
        self._failures.worked(_FILING, "reports are filed again")
        return outcomes

    def _write_status(self, connection: Connection) -> None:
        try:
            self._write_along(connection)
        except OperationalError:
            # The database itself fails, for example because the disk is full, and reports would fail next.
            raise
        except Exception as error:
            # No report depends on a counter.
            self._failures.failed(_STATUS, f"{_STATUS} failed, and is tried again: {described(error)}")
        else:
            self._failures.worked(_STATUS)

    def _refuse(self, reports: int, error: Exception) -> list[Filed]:
        reason = error.orig if isinstance(error, DBAPIError) else described(error)
        self._failures.failed(_FILING, f"reports cannot be filed ({reason}); agents keep them and try again")
        outcome = refused(Overloaded("the report could not be stored", retry_after_seconds=RETRY_AFTER_SECONDS))
        return [outcome] * reports
