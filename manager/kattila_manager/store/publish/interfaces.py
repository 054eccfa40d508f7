"""Writes the interfaces of each agent's newest sample to the `agent_interfaces` table, when they change.

A report may have thousands of interfaces. So the publisher keeps only a digest of them, and they are read again to be
written, those of a few agents at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from sqlalchemy import Connection, delete, func, insert, select

from kattila_manager.records import Agent, Snapshot
from kattila_manager.store.bodies import data_of
from kattila_manager.store.decoding import decode
from kattila_manager.store.interface_rows import COLUMNS, InterfaceRows, rows_of
from kattila_manager.store.publish.savepoints import write_each
from kattila_manager.store.schema import agent_interfaces

# Rows that are read, and written in one transaction, which holds the write lock for some hundredths of a second. The
# interfaces of one agent stay together.
SLICE_ROWS = 2000

_SELECT = select(agent_interfaces.c.agent_ref, *(agent_interfaces.c[name] for name in COLUMNS))
_COUNTS = select(agent_interfaces.c.agent_ref, func.count()).group_by(agent_interfaces.c.agent_ref)

# agents.ref, the newest report's id, and the new rows.
Changed = tuple[int, int, InterfaceRows]


def unwritten(connection: Connection, snapshot: Snapshot, written: Mapping[int, int]) -> Iterator[list[Agent]]:
    """Yield the agents whose interfaces may have to be written, some at a time, up to SLICE_ROWS.

    `written` are the digests that were compared with the table before, by agents.ref. A reset removes rows, so their
    number must match as well.
    """
    counts = {int(row[0]): int(row[1]) for row in connection.execute(_COUNTS)}
    part: list[Agent] = []
    size = 0
    for agent in snapshot.agents:
        report = snapshot.report_of(agent)
        table = (written.get(agent.ref), counts.get(agent.ref, 0))
        if report is None or (report.interfaces_digest, report.interfaces) == table:
            continue
        if part and size + report.interfaces > SLICE_ROWS:
            yield part
            part, size = [], 0
        part.append(agent)
        size += report.interfaces
    if part:
        yield part


def changed_interfaces(connection: Connection, agents: Sequence[Agent]) -> list[Changed]:
    """Return the changes of those agents whose interfaces changed."""
    stored: defaultdict[int, InterfaceRows] = defaultdict(dict)
    refs = [agent.ref for agent in agents]
    for ref, *columns in connection.execute(_SELECT.where(agent_interfaces.c.agent_ref.in_(refs))):
        stored[ref][columns[0]] = tuple(columns)
    newest = [(agent.ref, agent.latest_report_id) for agent in agents if agent.latest_report_id is not None]
    found = [(ref, report_id, rows_of(decode(data_of(connection, report_id)))) for ref, report_id in newest]
    return [(ref, report_id, rows) for ref, report_id, rows in found if rows != stored.get(ref, {})]


def replace_interfaces(connection: Connection, changed: Sequence[Changed]) -> tuple[tuple[Changed, Exception], ...]:
    """Replace the rows of these agents; the caller commits. Returns the agents that failed, with their errors."""
    return write_each(connection, changed, partial(_replace, connection))


def _replace(connection: Connection, changed: Changed) -> None:
    ref, report_id, by_name = changed
    connection.execute(delete(agent_interfaces).where(agent_interfaces.c.agent_ref == ref))
    rows = [
        {"agent_ref": ref, "report_id": report_id, **dict(zip(COLUMNS, row, strict=True))} for row in by_name.values()
    ]
    if rows:
        connection.execute(insert(agent_interfaces), rows)
