"""Writes the interfaces of each agent's newest sample to the `agent_interfaces` table, when they change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from kattila_manager.records import Snapshot
from kattila_manager.store.publish.savepoints import write_each
from kattila_manager.store.schema import agent_interfaces
from kattila_protocol.report import Interface

_COLUMNS = ("name", "kind", "address", "addresses", "operstate", "mtu")
_SELECT = select(agent_interfaces.c.agent_ref, *(agent_interfaces.c[name] for name in _COLUMNS))

# The values of _COLUMNS of one agent's interfaces, by interface name.
InterfaceRows = dict[str, tuple[Any, ...]]
# agents.ref, the newest report's id, and the new rows.
Changed = tuple[int, int, InterfaceRows]


def changed_interfaces(connection: Connection, snapshot: Snapshot) -> list[Changed]:
    """Return the changes of each agent whose interfaces changed."""
    stored: defaultdict[int, InterfaceRows] = defaultdict(dict)
    for ref, *columns in connection.execute(_SELECT):
        stored[ref][columns[0]] = tuple(columns)
    changed = []
    for agent in snapshot.agents:
        report, report_id = snapshot.report_of(agent), agent.latest_report_id
        if report is None or report_id is None:
            continue
        rows = _rows(report.telemetry.interfaces)
        if rows != stored.get(agent.ref, {}):
            changed.append((agent.ref, report_id, rows))
    return changed


def replace_interfaces(connection: Connection, changed: Sequence[Changed]) -> tuple[tuple[Changed, Exception], ...]:
    """Replace the rows of these agents; the caller commits. Returns the agents that failed, with their errors."""
    return write_each(connection, changed, partial(_replace, connection))


def _replace(connection: Connection, changed: Changed) -> None:
    ref, report_id, by_name = changed
    connection.execute(delete(agent_interfaces).where(agent_interfaces.c.agent_ref == ref))
    rows = [
        {"agent_ref": ref, "report_id": report_id, **dict(zip(_COLUMNS, row, strict=True))} for row in by_name.values()
    ]
    if rows:
        connection.execute(insert(agent_interfaces), rows)


def _rows(interfaces: Iterable[Interface]) -> InterfaceRows:
    # By name, because a report may list a name twice.
    return {
        each.name: (each.name, each.kind, each.address, ",".join(each.addresses), each.operstate, each.mtu)
        for each in interfaces
    }
