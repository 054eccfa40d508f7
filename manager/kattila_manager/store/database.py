"""The SQLite file: opening it, its locks, write transactions, and the revision of its schema."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool, QueuePool

# Longer than the slowest slice of pruning. Usually the write lock keeps writers apart.
BUSY_TIMEOUT_SECONDS = 30.0
MIGRATIONS = Path(__file__).with_name("migrations")
# The driver would refuse a whole query for one damaged text.
_decoded = partial(str, encoding="utf-8", errors="replace")


def open_engine(path: Path, *, pooled: bool = True) -> Engine:
    """Open the database file in WAL mode with `synchronous=FULL`, so that commits survive a power cut."""
    engine = create_engine(
        URL.create("sqlite", database=uri(path), query={"uri": "true"}),
        # Reports do not belong in a log.
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
        poolclass=QueuePool if pooled else NullPool,
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def uri(path: Path, **parameters: str) -> str:
    """Return a file's URI for SQLite, with parameters such as mode="ro".

    As a plain name, "file:…" or ":memory:" would not be a file.
    """
    return path.absolute().as_uri() + (f"?{urlencode(parameters)}" if parameters else "")


class WriteLock:
    """A file beside the database that writers lock first.

    SQLite polls its own lock, so some of several busy writers starve. The kernel's flock wakes them in turn.
    """

    def __init__(self, database: Path) -> None:
        """Open the lock file of this database; create it if needed."""
        self._descriptor = _open_beside(database, "lock")
        # The open file holds the flock, and the threads of a process share it.
        self._threads = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock and hold it."""
        with self._threads:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    @contextmanager
    def transaction(self, engine: Engine) -> Iterator[Connection]:
        """Hold the lock around one write transaction, which commits at the end, or rolls back on an error."""
        with self.held(), begun(engine) as connection:
            yield connection

    def close(self) -> None:
        """Close the lock file."""
        os.close(self._descriptor)


@contextmanager
def begun(engine: Engine) -> Iterator[Connection]:
    """Begin one write transaction; hold the lock meanwhile."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


class DatabaseUnusableError(Exception):
    """The database cannot be used; the text names it, the cause and the remedy."""


class DatabaseNewerError(DatabaseUnusableError):
    """A newer version of the manager created the database."""


@contextmanager
def only_one(database: Path, name: str) -> Iterator[None]:
    """Hold this database's lock of that name, which one process at a time can hold; wait for it."""
    descriptor = _open_beside(database, name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def hold_open(database: Path) -> int:
    """Mark the database as open in this process, until the returned descriptor is closed.

    Raises:
        DatabaseUnusableError: the database is being restored.
    """
    descriptor = _open_beside(database, "open")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DatabaseUnusableError(f"{database} is being restored: try again when the restore is done") from None
    return descriptor


@contextmanager
def held_open(database: Path) -> Iterator[None]:
    """Mark the database as open meanwhile, see `hold_open`."""
    descriptor = hold_open(database)
    try:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def closed_to_others(database: Path) -> Iterator[None]:
    """Keep all other processes from opening the database.

    Raises:
        DatabaseUnusableError: another process has it open.
    """
    descriptor = _open_beside(database, "open")
    try:
        _lock_alone(database, descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock_alone(database: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DatabaseUnusableError(
            f"{database} is in use: stop 'kattila-manager serve', 'kattila-manager publish' and its other commands "
            f"('fuser {database}.open' shows which)"
        ) from None


def check(path: Path) -> None:
    """Check that the file is a database with the newest schema, without creating or changing it.

    Raises:
        DatabaseUnusableError: it is not writable, not a database, or an older or newer version created it.
    """
    if revision_of(path) != revisions()[-1]:
        raise DatabaseUnusableError(
            f"{path} was made by an older version: start 'kattila-manager serve', which migrates it"
        )


def revision_of(path: Path) -> str:
    """Return the revision of a database's schema.

    Raises:
        DatabaseUnusableError: see `check`, except that an older version is fine.
    """
    found = None
    if path.exists():
        with errors_explained(path), connected(path) as connection:
            found = known_revision(path, connection)
    if found is None:
        raise DatabaseUnusableError(
            f"there is no database of kattila-manager at {path}: start 'kattila-manager serve', which creates it, or "
            "correct MANAGER_DB"
        )
    return found


def revisions() -> list[str]:
    """Return the revisions of the schema, oldest first, from the file names of the migrations."""
    return sorted(migration.name.partition("_")[0] for migration in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def known_revision(path: Path, connection: Connection) -> str | None:
    """Return the revision of a database, None if it is empty; raises DatabaseNewerError for an unknown one."""
    with connection.begin():
        table = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").first()
        row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first() if table else None
    found = None if row is None else str(row[0])
    if found is not None and found not in revisions():
        raise DatabaseNewerError(
            f"{path} was made by a newer version of kattila-manager (its schema is {found}, the newest known is "
            f"{revisions()[-1]}): install that version, or correct MANAGER_DB"
        )
    return found


@contextmanager
def connected(path: Path) -> Iterator[Connection]:
    """Open the database for one connection."""
    engine = open_engine(path, pooled=False)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def errors_explained(path: Path) -> Iterator[None]:
    """Replace errors of the libraries by DatabaseUnusableError, with the remedy for the database at `path`."""
    try:
        yield
    except FileNotFoundError:
        raise DatabaseUnusableError(
            f"the folder {path.parent} does not exist: create it, owned by the user that runs this program, or correct "
            "MANAGER_DB"
        ) from None
    except OSError as error:
        raise DatabaseUnusableError(_unusable(path, error.strerror or str(error))) from None
    except (DatabaseError, PoolTimeout, sqlite3.Error) as error:
        reason = str(error.orig if isinstance(error, DatabaseError) else error)
        raise DatabaseUnusableError(_unusable(path, reason)) from None


def _unusable(path: Path, reason: str) -> str:
    return (
        f"{path} cannot be used ({reason}): it must be an SQLite database of kattila-manager that uid {os.geteuid()} "
        "can write, as well as its folder: change the owner, or correct MANAGER_DB"
    )


def _open_beside(database: Path, name: str) -> int:
    """Open the lock file of that name; create it if needed. A link in its place is an error."""
    path = database.with_name(f"{database.name}.{name}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver begins transactions deferred, and a deferred writer can fail half-way.
    connection.isolation_level = None
    connection.text_factory = _decoded
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=4000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
