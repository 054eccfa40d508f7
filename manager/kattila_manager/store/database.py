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

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool, QueuePool

# Long enough for the slowest slice of retention; the write lock keeps writers from meeting at all.
BUSY_TIMEOUT_SECONDS = 30.0
_MIGRATIONS = Path(__file__).with_name("migrations")


def open_engine(path: Path, *, pooled: bool = True) -> Engine:
    """Open the database file in WAL mode with `synchronous=FULL`: what is committed survives a power cut."""
    engine = create_engine(
        f"sqlite:///{path}",
        # What is filed is nobody's business in a log.
        hide_parameters=True,
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
        self._descriptor = _open_beside(database, "lock")
        # flock is held by the open file, which the threads of a process share.
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
        """Hold the lock around one write transaction; it commits at the end, or rolls back on an error."""
        with self.held(), begun(engine) as connection:
            yield connection

    def close(self) -> None:
        """Close the lock file."""
        os.close(self._descriptor)


@contextmanager
def begun(engine: Engine) -> Iterator[Connection]:
    """Make one write transaction while the lock is held."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


class DatabaseUnusableError(Exception):
    """The database cannot be used; the text says which, why, and what to do."""


@contextmanager
def only_one(database: Path, name: str) -> Iterator[None]:
    """Be the only process that does what `name` stands for with this database; waits for another one."""
    descriptor = _open_beside(database, name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def migrate(path: Path) -> None:
    """Bring the schema of the file to the newest version, or make it.

    Raises:
        DatabaseUnusableError: its folder is missing, it is not writable, no database, or made by a newer version.
    """
    # Weighs as much as the rest of a small command, and only this needs it.
    from alembic import command  # noqa: PLC0415 - as said above
    from alembic.config import Config  # noqa: PLC0415 - as said above

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    # As the newest alembic wants it said.
    config.set_main_option("path_separator", "os")
    with told(path):
        # For writing, even when nothing is to be migrated: better told now than with the first report.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
        with only_one(path, "lock"), _connected(path) as connection:
            _check_known(path, connection)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def check(path: Path) -> None:
    """Check that the file is a database with the newest schema, without making or changing one.

    Raises:
        DatabaseUnusableError: see `migrate`; also when there is none, or one that an older version made.
    """
    found = None
    if path.exists():
        with told(path), _connected(path) as connection:
            found = _check_known(path, connection)
    if found is None:
        raise DatabaseUnusableError(
            f"there is no database of kattila-manager at {path}: start 'kattila-manager serve', which makes it, or "
            "correct MANAGER_DB"
        )
    if found != revisions()[-1]:
        raise DatabaseUnusableError(
            f"{path} was made by an older version: start 'kattila-manager serve', which brings it up to date"
        )


def revisions() -> list[str]:
    """Return the revisions of the schema, oldest first: the names of the migrations begin with them."""
    return sorted(migration.name.partition("_")[0] for migration in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def _check_known(path: Path, connection: Connection) -> str | None:
    """Return the revision of a database, None for an empty one; raises DatabaseUnusableError for a later one."""
    with connection.begin():
        table = connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").first()
        row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first() if table else None
    found = None if row is None else str(row[0])
    if found is not None and found not in revisions():
        raise DatabaseUnusableError(
            f"{path} was made by a newer version of kattila-manager (its schema is {found}, known here is "
            f"{revisions()[-1]}): install that one, or correct MANAGER_DB"
        )
    return found


@contextmanager
def _connected(path: Path) -> Iterator[Connection]:
    engine = open_engine(path, pooled=False)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Say what the libraries' errors mean for the database at `path`; raises DatabaseUnusableError in their place."""
    try:
        yield
    except FileNotFoundError:
        raise DatabaseUnusableError(
            f"the folder {path.parent} does not exist: make it, owned by the user that runs this, or correct MANAGER_DB"
        ) from None
    except OSError as error:
        raise DatabaseUnusableError(_unusable(path, error.strerror or str(error))) from None
    except (DatabaseError, sqlite3.Error) as error:
        reason = str(error.orig if isinstance(error, DatabaseError) else error)
        raise DatabaseUnusableError(_unusable(path, reason)) from None


def _unusable(path: Path, reason: str) -> str:
    return (
        f"{path} cannot be used ({reason}): it must be an SQLite database of kattila-manager that uid {os.geteuid()} "
        "can write, as well as its folder; else correct MANAGER_DB"
    )


def _open_beside(database: Path, name: str) -> int:
    """Open (and make) the lock file of that name; a command run as root leaves it to the database's owner."""
    path = database.with_name(f"{database.name}.{name}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    if os.geteuid() == 0:
        owner = database.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transactions begin deferred, and a deferred writer can fail half-way.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=4000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
