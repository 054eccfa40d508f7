"""Fills a manager's database without a server: reports are filed as the writer does, at times that a test sets."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from kattila_manager.records import Filed, RefusalCount, VerifiedReport
from kattila_manager.store import compression
from kattila_manager.store.admin import migrating
from kattila_manager.store.decoding import decode
from kattila_manager.store.ingest.compression_groups import CompressionGroups
from kattila_manager.store.ingest.filing import Filing
from kattila_manager.store.ingest.worker_status import add_refusals, beat
from kattila_manager.store.store import Store
from kattila_protocol import canonical
from kattila_protocol.report import Report
from kattila_protocol.signing import Key, Purpose
from support.reports import KEY
from support.waiting import PATIENCE_SECONDS

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
# 2026-01-31 12:00:00 UTC.
NOON = 1_769_860_800_000


class Fleet:
    """A new database, and the `store` that has it open."""

    def __init__(self, folder: Path) -> None:
        """Create the database in `folder`."""
        self.database = folder / "kattila_manager.db"
        migrating.migrate(self.database, folder, 0)
        self.store = Store(self.database)
        self._groups = CompressionGroups()

    def file(
        self,
        report: Report,
        *,
        at: int | None = None,
        key: Key = KEY,
        relays: tuple[str, ...] = (),
        source: str = "192.0.2.99",
    ) -> Filed:
        """File a report that arrived at `at` (ms UTC), by default when it was signed."""
        data = canonical.encode(report)
        mac = bytes.fromhex(key.sign(Purpose.REPORT, data))
        received_at = report.timestamp if at is None else at
        prepared = self._groups.compress(VerifiedReport(decode(data), data, mac, key, relays, received_at, source))
        with self.store.lock.transaction(self.store.engine) as connection:
            [filed] = Filing(connection).file([prepared])
        if filed.report_id is not None:
            self._groups.note_commit(prepared, filed.report_id)
        return filed

    def beat(self, now: int, *, worker: int = 1) -> None:
        """Record a heartbeat of a worker."""
        self.store.write(lambda connection: beat(connection, worker, now))

    def refuse(self, kind: str, agent_id: str | None, count: int, at: int, detail: str = "a detail") -> None:
        """Record refusals of the server."""
        refusal = RefusalCount(kind, agent_id, count, at, at, detail)
        self.store.write(lambda connection: add_refusals(connection, refusal))

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Query the database over a new connection."""
        with closing(sqlite3.connect(self.database, timeout=PATIENCE_SECONDS)) as connection:
            return connection.execute(query, values).fetchall()

    def change(self, statement: str, *values: object) -> None:
        """Change the database over a new connection, unnoticed by the store."""
        with closing(sqlite3.connect(self.database, timeout=PATIENCE_SECONDS)) as connection, connection:
            connection.execute(statement, values)

    def dump(self) -> str:
        """Return the whole database as text, for comparison."""
        with closing(sqlite3.connect(self.database, timeout=PATIENCE_SECONDS)) as connection:
            return "\n".join(connection.iterdump())

    def members(self, agent_id: str) -> dict[str, Any]:
        """Return the row of an agent."""
        with closing(sqlite3.connect(self.database, timeout=PATIENCE_SECONDS)) as connection:
            connection.row_factory = sqlite3.Row
            row = connection.execute("SELECT * FROM agents WHERE agent_id = ?", (agent_id,)).fetchone()
            return {name: row[name] for name in row.keys()}  # noqa: SIM118 - a Row iterates over its values


@contextmanager
def fleet_in(folder: Path) -> Iterator[Fleet]:
    """Create a database in a folder, and close it at the end."""
    fleet = Fleet(folder)
    try:
        yield fleet
    finally:
        fleet.store.close()


def damage(fleet: Fleet, report_id: int) -> None:
    """Overwrite the stored body of a report with other JSON."""
    fleet.change(
        "UPDATE reports SET body = ? WHERE id = ?", compression.compress(json.dumps([1]).encode(), None), report_id
    )
    fleet.change("UPDATE reports SET base_id = NULL WHERE id = ?", report_id)
