"""Large reports cost the publisher little memory, hold the write lock briefly, and prune no honest report."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import event

from kattila_manager.store.admin.retention import RetentionLimits, used_bytes
from kattila_protocol.report import Interface, Neighbour, Report, Route
from support.fleet import DAY, HOUR, MINUTE, NOON, Fleet, fleet_in
from support.publisher import MIB, cycle, publisher
from support.reports import node, report

LIARS = range(100, 120)


def of_rows(number: int, rows: int) -> Report:
    """Return a report with this many rows in all."""
    made = report(node(number), 1, NOON)
    routes = tuple(Route(f"{number}.{row}", None, None, None, 0, "", "") for row in range(rows // 2))
    neighbours = tuple(Neighbour(f"{number}.{row}", None, "", "") for row in range(rows // 2))
    return replace(made, telemetry=replace(made.telemetry, routes=routes, neighbours=neighbours))


def of_interfaces(number: int, count: int, sample: int = 1) -> Report:
    """Return a report with this many interfaces, with addresses that no other sample has."""
    made = report(node(number), sample, NOON)
    links = (
        Interface(row, f"e{row}", "veth", (), "UP", 1500, None, (f"{number}.{sample}.{row}",)) for row in range(count)
    )
    return replace(made, telemetry=replace(made.telemetry, interfaces=(*made.telemetry.interfaces, *links)))


def test_large_reports_do_not_fill_the_memory_of_the_publisher(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        for number in LIARS:
            fleet.file(of_rows(number, 24_000))
        running = publisher(fleet)
        tracemalloc.start()
        assert running.cycle(NOON, lambda: True).failures == ()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    print(f"after a cycle the publisher holds {held // MIB} MiB for {len(LIARS)} reports of 24,000 rows")
    assert held < 10 * MIB


def test_many_interfaces_are_written_in_many_transactions(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        for number in LIARS:
            fleet.file(of_interfaces(number, 2000))
        with rows_per_transaction(fleet) as rows:
            assert cycle(fleet).failures == ()
        print(f"at most {max(rows):,} of {sum(rows):,} rows in a transaction")
        assert sum(rows) > 2000 * len(LIARS)
        assert max(rows) < 5000
        assert fleet.rows("SELECT count(*) FROM agent_interfaces") == [(sum(rows),)]


def test_rows_beside_the_reports_do_not_prune_the_reports_of_others(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        for number in range(200):
            fleet.file(report(node(1), number + 1, NOON - DAY + number * MINUTE))
        for number in LIARS:
            fleet.file(of_interfaces(number, 3000))
        # The rows of the interfaces take several times as much. They are written first.
        limits = RetentionLimits(30 * DAY, 3 * MIB)
        pruned = [cycle(fleet, now, limits).pruned for now in (NOON, NOON + MINUTE, NOON + HOUR)]
        print(f"pruned {sum(pruned)} of {200 + len(LIARS)} reports")
        assert sum(pruned) == 0
        assert fleet.store.read(used_bytes) > limits.size_bytes


@contextmanager
def rows_per_transaction(fleet: Fleet) -> Iterator[list[int]]:
    """Yield the numbers of interfaces that each transaction wrote."""
    rows: list[int] = []

    def note_begin(_connection: Any) -> None:
        rows.append(0)

    def note_rows(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("INSERT INTO agent_interfaces"):
            rows[-1] += len(parameters) if isinstance(parameters, list) else 1

    event.listen(fleet.store.engine, "begin", note_begin)
    event.listen(fleet.store.engine, "before_cursor_execute", note_rows)
    yield rows
    event.remove(fleet.store.engine, "begin", note_begin)
    event.remove(fleet.store.engine, "before_cursor_execute", note_rows)
