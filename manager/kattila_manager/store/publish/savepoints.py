"""Writes items one by one, so that an item that cannot be written prevents no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

_Item = TypeVar("_Item")


def write_each(
    connection: Connection, items: Iterable[_Item], write: Callable[[_Item], object]
) -> tuple[tuple[_Item, Exception], ...]:
    """Call `write` for each item, each in its own savepoint; the caller commits.

    Returns the items that could not be written, with their errors. They leave the database unchanged.

    Raises:
        OperationalError: the database itself fails, for example because the disk is full.
    """
    failed: list[tuple[_Item, Exception]] = []
    for item in items:
        try:
            with connection.begin_nested():
                write(item)
        except OperationalError:
            raise
        except Exception as error:
            failed.append((item, error))
    return tuple(failed)
