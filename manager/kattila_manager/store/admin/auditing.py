"""Reads the audit log back: is every report complete, and does it match its row?

It reads in slices, so that no read transaction lasts long.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import zstandard
from sqlalchemy import Connection, Row, func, select

from kattila_manager.records import Record
from kattila_manager.store import compression
from kattila_manager.store.bodies import data_of
from kattila_manager.store.decoding import decode
from kattila_manager.store.read import queries
from kattila_manager.store.schema import agents, reports
from kattila_protocol.errors import Malformed

SLICE = 1000
# Two DATA of a few kB for each group being read. A group that is forgotten is read again.
_MAX_GROUPS = 4096
_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Audited:
    """One row: the report, or its problem."""

    report_id: int
    record: Record | None
    problem: str = ""


class Audit:
    """One pass through the log, in one thread."""

    def __init__(self) -> None:
        """Start before the first report."""
        self._after_id = 0
        self._groups: OrderedDict[int, dict[int, bytes]] = OrderedDict()
        self._bytes = 0

    def next_slice(self, connection: Connection) -> list[Audited]:
        """Return the next reports; an empty list at the end."""
        query = (
            select(reports, agents.c.agent_id)
            .join(agents, agents.c.ref == reports.c.agent_ref)
            .where((reports.c.id > self._after_id) & queries.IS_WHOLE)
            .order_by(reports.c.id)
            .limit(SLICE)
        )
        audited, size = [], 0
        for row in connection.execute(query):
            audited.append(self._audit(connection, row))
            self._after_id = row.id
            size += len(audited[-1].record.data) if audited[-1].record else 0
            if size > _MAX_BYTES:
                break
        return audited

    def _audit(self, connection: Connection, row: Row[Any]) -> Audited:
        try:
            data = self._data(connection, row)
            report = decode(data)
        except (LookupError, zstandard.ZstdError, Malformed) as error:
            return Audited(row.id, None, f"cannot be read ({error})")
        if (report.agent_id, report.sample, report.tick) != (row.agent_id, row.sample, row.tick):
            return Audited(row.id, None, "names another agent, sample or tick than its row")
        return Audited(row.id, queries.record_of(row, data))

    def _data(self, connection: Connection, row: Row[Any]) -> bytes:
        group = self._groups.pop(row.key_id, {})
        self._bytes -= sum(map(len, group.values()))
        base_id = row.base_id
        base = None if base_id is None else group.get(base_id) or data_of(connection, base_id)
        data = compression.expand(row.body, base)
        # Later reports are compressed against the key or the previous report.
        kept = {key: base for key, base in group.items() if key == row.key_id} | {row.id: data}
        self._groups[row.key_id] = kept
        self._bytes += sum(map(len, kept.values()))
        while len(self._groups) > _MAX_GROUPS or self._bytes > _MAX_BYTES:
            _, forgotten = self._groups.popitem(last=False)
            self._bytes -= sum(map(len, forgotten.values()))
        return data


def integrity(connection: Connection) -> list[str]:
    """Return the problems that SQLite finds in the file (PRAGMA integrity_check, foreign_key_check)."""
    found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check") if row[0] != "ok"]
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return found + [f"a row of {row[0]} refers to a missing row of {row[2]}" for row in broken]


def report_count(connection: Connection) -> int:
    """Return the number of reports in the log."""
    return int(connection.execute(select(func.count()).select_from(reports)).scalar() or 0)
