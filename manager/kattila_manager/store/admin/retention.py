"""Prunes old reports by age and by size, in slices, so that writers never wait long.

Reports are pruned in the order of arrival. Once a group's key is pruned, its remaining reports count as pruned, and go
next. So the age limit allows for the length of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, func, select

from kattila_manager.store import compression
from kattila_manager.store.database import WriteLock
from kattila_manager.store.schema import reports

SLICE = 2000
# Writers may still compress against groups that are this old.
_IN_USE_MS = compression.GROUP_MS + 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """The age (ms) and the size of all reports in the database (bytes) above which the oldest are pruned."""

    age_ms: int
    size_bytes: int


def prune(
    engine: Engine,
    lock: WriteLock,
    limits: RetentionLimits,
    now: int,
    may_continue: Callable[[], bool],
    slice_rows: int = SLICE,
) -> int:
    """Remove reports beyond a limit, and return how many.

    `may_continue` is called between slices. It may wait a little, and return False to postpone the rest.
    """
    with engine.connect() as connection:
        others = _bytes_of_others(connection)
    removed = 0
    while (last := _next_slice(engine, limits, others, now, slice_rows)) is not None:
        with lock.transaction(engine) as connection:
            removed += connection.execute(delete(reports).where(reports.c.id <= last)).rowcount
        if not may_continue():
            break
    return removed


def used_bytes(connection: Connection) -> int:
    """Return how many bytes of the database file are in use."""
    page_size, pages, free = (
        int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
        for name in ("page_size", "page_count", "freelist_count")
    )
    return page_size * (pages - free)


def report_bytes(connection: Connection) -> int:
    """Return how many bytes of the database file the reports and their indexes use."""
    return used_bytes(connection) - _bytes_of_others(connection)


def _bytes_of_others(connection: Connection) -> int:
    """Return how many bytes all other tables use; 0 if this SQLite cannot tell (it has no dbstat).

    Removing reports would not make these smaller. They are read for that, and are much smaller than the reports.
    """
    if not connection.exec_driver_sql("SELECT 1 FROM pragma_module_list WHERE name = 'dbstat'").first():
        return 0
    of_others = "SELECT name FROM sqlite_master WHERE rootpage > 0 AND tbl_name <> 'reports'"
    names = connection.exec_driver_sql(of_others).scalars().all()
    # SQLite reads only the table that a condition with one name selects.
    size = "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name = ?"
    return sum(int(connection.exec_driver_sql(size, (name,)).scalar() or 0) for name in names)


def _next_slice(engine: Engine, limits: RetentionLimits, others: int, now: int, slice_rows: int) -> int | None:
    with engine.connect() as connection:
        over_size = used_bytes(connection) - others > limits.size_bytes
        return _last_to_go(connection, limits.age_ms, now, slice_rows, over_size=over_size)


def _last_to_go(connection: Connection, age_ms: int, now: int, slice_rows: int, *, over_size: bool) -> int | None:
    cutoff = now - (_IN_USE_MS if over_size else max(age_ms + compression.GROUP_MS, _IN_USE_MS))
    oldest = select(reports.c.id, reports.c.received_at).order_by(reports.c.id).limit(slice_rows).subquery()
    # The newest report stays, so that no id is used twice.
    newest = select(func.max(reports.c.id)).scalar_subquery()
    doomed = select(func.max(oldest.c.id)).where(oldest.c.received_at < cutoff, oldest.c.id < newest)
    return connection.execute(doomed).scalar()
