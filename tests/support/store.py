"""Runs the manager's store without its server: a database in a folder, and the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from kattila_manager.records import Filed, Record, VerifiedReport
from kattila_manager.store import database
from kattila_manager.store.admin import migrating
from kattila_manager.store.admin.auditing import Audit
from kattila_manager.store.decoding import decode
from kattila_manager.store.ingest.writer import Writer
from kattila_manager.store.store import Store
from kattila_protocol import envelope
from kattila_protocol.names import MANAGER
from support.reports import RING
from support.waiting import PATIENCE_SECONDS


def opened(body: bytes, now: int) -> VerifiedReport:
    """Return a sealed report as the server passes it to the writer."""
    parts = envelope.parse(body)
    key = envelope.verify(parts, RING, MANAGER)
    return VerifiedReport(decode(parts.data), parts.data, bytes.fromhex(parts.mac), key, parts.relay_path, now)


def new_database(folder: Path) -> Path:
    """Create a database with the newest schema."""
    path = folder / "kattila_manager.db"
    migrating.migrate(path, folder, 0)
    return path


def older_database(folder: Path, revision: str) -> Path:
    """Create a database with the schema of an older version."""
    path = folder / "kattila_manager.db"
    with database.connected(path) as connection:
        migrating.upgrade(connection, revision)
    return path


def copy_rows(source: Path, target: Path) -> None:
    """Copy the rows of a newer database into an older one, for the columns that both have."""
    with sqlite(target) as connection, connection:
        connection.execute("ATTACH ? AS source", (str(source),))
        tables = [name for (name,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")]
        # Agents first: other tables refer to them.
        for table in sorted(set(tables) - {"alembic_version"}, key=lambda name: (name != "agents", name)):
            columns = ", ".join(f'"{row[1]}"' for row in connection.execute(f"PRAGMA main.table_info({table})"))
            connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM source.{table}")


def write_nothing(_: Connection) -> None:
    """Write nothing in addition to reports."""


class Filer:
    """A writer that has separate connections and caches, like one worker process of the server."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self.writer = Writer(self.store.engine, self.store.lock, write_nothing)
        self.writer.start()

    def submit(self, incoming: VerifiedReport) -> Future[Filed]:
        """Queue a report."""
        return self.writer.submit(incoming)

    def file(self, incoming: VerifiedReport) -> Filed:
        """File a report and wait for its commit."""
        return self.submit(incoming).result(PATIENCE_SECONDS)

    def close(self) -> None:
        """Stop the thread and close the connections."""
        self.writer.stop()
        self.store.close()


@contextmanager
def filing(path: Path) -> Iterator[Filer]:
    """Run a `Filer` on a database."""
    filer = Filer(path)
    try:
        yield filer
    finally:
        filer.close()


def all_records(store: Store) -> list[Record]:
    """Return all reports in the database, in the order of arrival; every one must be readable."""
    audit, records = Audit(), []
    while audited := store.read(audit.next_slice):
        for each in audited:
            assert each.record is not None, each.problem
            records.append(each.record)
    return records


@contextmanager
def sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database as any other program would."""
    connection = sqlite3.connect(path, timeout=PATIENCE_SECONDS)
    try:
        yield connection
    finally:
        connection.close()
