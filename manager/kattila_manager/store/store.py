"""The database as the rest of a process uses it: one read or one write transaction for each call.

May live here: which transaction a call is. Not here: the statements (reading, registry, filing).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from kattila_manager.store.database import WriteLock, check, hold_open, only_one, open_engine, told

_Result = TypeVar("_Result")


class Store:
    """One open database; safe for several threads."""

    def __init__(self, path: Path) -> None:
        """Open the file, which `migrating.migrate` has made. Raises DatabaseUnusableError."""
        self.path = path
        with told(path):
            self._held = hold_open(path)
        self.engine = open_engine(path)
        self.lock = WriteLock(path)

    def read(self, query: Callable[[Connection], _Result]) -> _Result:
        """Return `query(connection)` on one consistent state of the database. Raises DatabaseUnusableError."""
        with told(self.path), self.engine.connect() as connection, connection.begin():
            return query(connection)

    def write(self, change: Callable[[Connection], _Result]) -> _Result:
        """Return `change(connection)` after its commit. Raises DatabaseUnusableError."""
        with told(self.path), self.lock.transaction(self.engine) as connection:
            return change(connection)

    def publishing(self) -> AbstractContextManager[None]:
        """Be the only one that publishes: who compares and then writes may not meet another one in between."""
        return only_one(self.path, "publishing")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        self.lock.close()
        os.close(self._held)


def open_existing(path: Path) -> Store:
    """Open the database that the server made; raises DatabaseUnusableError."""
    check(path)
    return Store(path)
