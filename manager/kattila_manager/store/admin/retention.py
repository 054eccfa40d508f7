"""Old reports out, by age and by size, in slices that never keep a writer waiting long.

May live here: what is pruned. Reports go strictly in the order of arrival; what is left of a group (frames) whose key
is gone counts as pruned (reading) and goes next, so the limit of age allows for the length of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, func, select

from kattila_manager.store import compression
from kattila_manager.store.database import WriteLock
from kattila_manager.store.schema import reports

SLICE = 2000
# Writers may still compress against groups of this age.
_IN_USE_MS = compression.GROUP_MS + 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """How long reports are kept (ms), and above which size (bytes) the oldest go all the same."""

    age_ms: int
    size_bytes: int


def prune(
    engine: Engine, lock: WriteLock, limits: Limits, now: int, go_on: Callable[[], bool], slice_rows: int = SLICE
) -> int:
    """Remove what is over a limit and return how many reports that were.

    Between slices `go_on` may wait a little, and say by False that the rest is for another time.
    """
    removed = 0
    while (last := _look(engine, limits, now, slice_rows)) is not None:
        with lock.transaction(engine) as connection:
            removed += connection.execute(delete(reports).where(reports.c.id <= last)).rowcount
        if not go_on():
            break
    return removed


def used_bytes(connection: Connection) -> int:
    """Return how many bytes of the database file hold something."""
    page_size, pages, free = (
        int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
        for name in ("page_size", "page_count", "freelist_count")
    )
    return page_size * (pages - free)


def _look(engine: Engine, limits: Limits, now: int, slice_rows: int) -> int | None:
    with engine.connect() as connection:
        return _last_to_go(connection, limits, now, slice_rows)


def _last_to_go(connection: Connection, limits: Limits, now: int, slice_rows: int) -> int | None:
    over_size = used_bytes(connection) > limits.size_bytes
    cutoff = now - (_IN_USE_MS if over_size else max(limits.age_ms + compression.GROUP_MS, _IN_USE_MS))
    oldest = select(reports.c.id, reports.c.received_at).order_by(reports.c.id).limit(slice_rows).subquery()
    # The newest report stays, so that no id is ever given twice.
    newest = select(func.max(reports.c.id)).scalar_subquery()
    doomed = select(func.max(oldest.c.id)).where(oldest.c.received_at < cutoff, oldest.c.id < newest)
    return connection.execute(doomed).scalar()
