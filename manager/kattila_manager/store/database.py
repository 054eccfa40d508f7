"""The SQLite file: how it is opened, how a write transaction begins, and migrations.

May live here: engine, pragmas, the write lock. Not here: what is read or written.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool, QueuePool

# Long enough for the slowest slice of retention; the write lock keeps writers from meeting at all.
BUSY_TIMEOUT_SECONDS = 30.0


def open_engine(path: Path, *, pooled: bool = True) -> Engine:
    """Open the database file in WAL mode with `synchronous=FULL`: what is committed survives a power cut."""
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
        poolclass=QueuePool if pooled else NullPool,
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


class WriteLock:
    """A file beside the database that writers lock first.

    SQLite's own lock is polled: of several busy writers some starve. The kernel's flock wakes them in turn.
    """

    def __init__(self, database: Path) -> None:
        """Open (and make) the lock file of this database."""
        path = database.with_name(database.name + ".lock")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        # flock is held by the open file, which the threads of a process share.
        self._threads = threading.Lock()

    @contextmanager
    def transaction(self, engine: Engine) -> Iterator[Connection]:
        """Hold the lock around one write transaction; it commits at the end, or rolls back on an error."""
        with self._threads:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                with engine.connect().execution_options(writes=True) as connection, connection.begin():
                    yield connection
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the lock file."""
        os.close(self._descriptor)


def migrate(path: Path) -> None:
    """Bring the schema of the file to the newest version, or make it.

    Raises:
        sqlalchemy.exc.DatabaseError: not a database, or not writable.
        alembic.util.CommandError: made by a newer version of the manager.
    """
    path.touch(mode=0o640)
    engine = open_engine(path, pooled=False)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transactions begin deferred, and a deferred writer can fail half-way.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=4000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
