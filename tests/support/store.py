"""The manager's store without its server: a database in a folder, and the writer that files into it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from kattila_manager.ingest import reply_address
from kattila_manager.records import Filed, Incoming, Record
from kattila_manager.store import database, migrating
from kattila_manager.store.admin.auditing import Audit
from kattila_manager.store.ingest.writer import Writer
from kattila_manager.store.store import Store
from support.reports import KEY, RING
from support.waiting import PATIENCE_SECONDS


def opened(body: bytes, now: int) -> Incoming:
    """Return what a sealed report is after the inbox."""
    parts, _ = reply_address.open_envelope(body, RING)
    return reply_address.read(parts, KEY, now)


def new_database(folder: Path) -> Path:
    """Make a database with the newest schema."""
    path = folder / "kattila_manager.db"
    migrating.migrate(path, folder, 0)
    return path


def older_database(folder: Path, revision: str) -> Path:
    """Make a database as an older version of the manager made it."""
    path = folder / "kattila_manager.db"
    with database.connected(path) as connection:
        migrating.upgrade(connection, revision)
    return path


def copy_rows(source: Path, target: Path) -> None:
    """Fill the tables of an older database with what a newer one holds, as far as they have columns for it."""
    with sqlite(target) as connection, connection:
        connection.execute("ATTACH ? AS source", (str(source),))
        tables = [name for (name,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")]
        # Agents first, which the others refer to.
        for table in sorted(set(tables) - {"alembic_version"}, key=lambda name: (name != "agents", name)):
            columns = ", ".join(f'"{row[1]}"' for row in connection.execute(f"PRAGMA main.table_info({table})"))
            connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM source.{table}")


def resolve(answers: Sequence[tuple[Any, Filed]]) -> None:
    """Deliver as a synchronous server does."""
    for future, filed in answers:
        future.set_result(filed)


def nothing_beside(_: Connection) -> None:
    """Write nothing beside reports."""


class Filer:
    """One process's way into the database: its own connections, its own memory of what it filed."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self.writer = Writer(self.store.engine, self.store.lock, resolve, nothing_beside)
        self.writer.start()

    def submit(self, incoming: Incoming) -> Future[Filed]:
        """Queue a report."""
        future: Future[Filed] = Future()
        self.writer.submit(incoming, future)
        return future

    def file(self, incoming: Incoming) -> Filed:
        """File a report and wait for its commit."""
        return self.submit(incoming).result(PATIENCE_SECONDS)

    def close(self) -> None:
        """End its thread and its connections."""
        self.writer.stop()
        self.store.close()


@contextmanager
def filing(path: Path) -> Iterator[Filer]:
    """Run a filer on a database."""
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
    """Open the file as any other program would."""
    connection = sqlite3.connect(path, timeout=PATIENCE_SECONDS)
    try:
        yield connection
    finally:
        connection.close()
