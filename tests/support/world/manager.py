"""Runs the real manager as a WSGI application, with the clock of the simulation; it can be up, down, or busy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile, StoredRing
from kattila_manager.api.app import ApiSettings, Endpoints
from kattila_manager.ingest.update_handler import UpdateHandler
from kattila_manager.records import Filed, VerifiedReport
from kattila_manager.store.admin import migrating
from kattila_manager.store.ingest import registry
from kattila_manager.store.ingest.refusal_counters import RefusalCounters
from kattila_manager.store.ingest.writer import Writer
from kattila_manager.store.store import Store
from support.reports import RING
from support.store import write_nothing
from support.world.wsgi import Answer, call

_DATABASE = "kattila_manager.db"


@dataclass(frozen=True)
class Stored:
    """A report in the database; `late` is whether it was filed as late."""

    row: int
    agent_id: str
    sample: int
    tick: int
    late: bool
    relay_path: tuple[str, ...]


class _SynchronousWriter(Writer):
    """A writer that files in the calling thread: the simulation has only one."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def submit(self, verified: VerifiedReport) -> Future[Filed]:
        with self._lock.held():
            [filed] = self._commit([self._groups.compress(verified)])
        future: Future[Filed] = Future()
        future.set_result(filed)
        return future


class Manager:
    """A manager and its database; `restart` keeps only the database."""

    def __init__(self, folder: Path, clock: Callable[[], int], empty: Path | None = None) -> None:
        """Start with a copy of an empty database, or create one; `clock` returns ms UTC."""
        self._folder, self._clock = folder, clock
        # The number of reports that it accepts before it answers 503; None: all.
        self.room: int | None = None
        if empty is None:
            migrating.migrate(folder / _DATABASE, folder, 0)
        else:
            shutil.copy(empty, folder / _DATABASE)
        RingFile(folder / "kattila_ring.json").update(lambda _: StoredRing(RING, clock(), clock()))
        self._start()

    def _start(self) -> None:
        self._store = Store(self._folder / _DATABASE)
        self._writer = _SynchronousWriter(self._store.engine, self._store.lock, write_nothing)
        self._writer.start()
        self._key_thread = ThreadPoolExecutor(1)
        keys = Keys(RingFile(self._folder / "kattila_ring.json"), lambda: (), lambda: 0.5)
        updates = UpdateHandler(keys, self._writer, RefusalCounters(), self._key_thread, self._clock)
        settings = ApiSettings(
            interval_ms=30_000, pages_dir=self._folder, read_token=None, admin_token=None, version="0"
        )
        self._app = Endpoints(updates, keys, self._store, settings, self._clock).app()
        self._app.catchall = False

    def close(self) -> None:
        """Stop the thread and close the connections."""
        self._writer.stop()
        self._key_thread.shutdown()
        self._store.close()

    def restart(self) -> None:
        """Start again with the same database."""
        self.close()
        self._start()

    def post(self, path: str, body: bytes, source: str) -> Answer:
        """Return the answer to a request."""
        if self.room is not None:
            if self.room == 0:
                return Answer(503, {"retry-after": "5"}, b'{"type":"urn:kattila:problem:overloaded"}')
            self.room -= 1
        return call(self._app, "POST", path, source, body)

    def stored(self, above: int = 0) -> list[Stored]:
        """Return the reports in the database after a row."""
        query = (
            "SELECT id, agent_id, sample, tick, reports.sampled_at, reports.relay_path FROM reports "
            f"JOIN agents ON ref = agent_ref WHERE id > {above} ORDER BY id"
        )
        return [
            Stored(row, agent_id, sample, tick, sampled_at is not None, tuple(path.split(",")) if path else ())
            for row, agent_id, sample, tick, sampled_at, path in self.rows(query)
        ]

    def reset(self, agent_id: str) -> None:
        """Reset an agent, as an administrator does."""
        self._store.write(lambda connection: registry.reset(connection, agent_id, self._clock()))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Query the database."""
        return self._store.read(lambda connection: [tuple(row) for row in connection.exec_driver_sql(query)])
