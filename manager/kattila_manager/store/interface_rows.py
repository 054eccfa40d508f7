"""The rows of the `agent_interfaces` table that a report shows."""

from __future__ import annotations

from typing import Any

from kattila_protocol.report import Report

# The columns with the content of an interface.
COLUMNS = ("name", "kind", "address", "addresses", "operstate", "mtu")

# The values of COLUMNS of one agent's interfaces, by interface name.
InterfaceRows = dict[str, tuple[Any, ...]]


def rows_of(report: Report) -> InterfaceRows:
    """Return the rows of a report's interfaces."""
    # By name, because a report may list a name twice.
    return {
        each.name: (each.name, each.kind, each.address, ",".join(each.addresses), each.operstate, each.mtu)
        for each in report.telemetry.interfaces
    }


def digest(rows: InterfaceRows) -> int:
    """Return a digest of the rows that can be compared within this process."""
    return hash(frozenset(rows.values()))
