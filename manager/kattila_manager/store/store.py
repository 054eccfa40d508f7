"""The database of one process: each call is one read or one write transaction."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from kattila_manager.store.database import WriteLock, check, errors_explained, hold_open, only_one, open_engine

_Result = TypeVar("_Result")


class Store:
    """An open database; safe for several threads."""

    def __init__(self, path: Path) -> None:
        """Open the file, which `migrating.migrate` created. Raises DatabaseUnusableError."""
        self.path = path
        with errors_explained(path):
            self._held = hold_open(path)
        self.engine = open_engine(path)
        self.lock = WriteLock(path)

    def read(self, query: Callable[[Connection], _Result]) -> _Result:
        """Return `query(connection)` on one consistent state of the database. Raises DatabaseUnusableError."""
        with errors_explained(self.path), self.engine.connect() as connection, connection.begin():
            return query(connection)

    def write(self, change: Callable[[Connection], _Result]) -> _Result:
        """Return `change(connection)` after its commit. Raises DatabaseUnusableError."""
        with errors_explained(self.path), self.lock.transaction(self.engine) as connection:
            return change(connection)

    def publishing(self) -> AbstractContextManager[None]:
        """Hold the publishers' lock, because a publisher compares and then writes."""
        return only_one(self.path, "publishing")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self.lock.close()
        os.close(self._held)


def open_existing(path: Path) -> Store:
    """Open the database that the server created; raises DatabaseUnusableError."""
    check(path)
    return Store(path)
