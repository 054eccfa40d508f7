"""No report, and no row of one agent, stops the alarms, interfaces, edges or pages of other agents."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kattila_protocol.canonical import MAX_INTEGER
from support.fleet import DAY, MINUTE, NOON, SECOND, Fleet, fleet_in
from support.publisher import ONE, TWO, cycle, listen, opened, page, publisher
from support.reports import report


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Yield a fleet of a liar (ONE) and an honest agent (TWO), whose server has been listening for a day."""
    with fleet_in(tmp_path) as made:
        made.beat(NOON - DAY)
        listen(made, NOON)
        for sender in (ONE, TWO):
            made.file(report(sender, 1, NOON - SECOND))
        yield made


def refuse_rows(fleet: Fleet, what: str, condition: str) -> None:
    """Let the database refuse some rows, like values that a table cannot hold."""
    fleet.change(f"CREATE TRIGGER full BEFORE {what} WHEN {condition} BEGIN SELECT RAISE(ABORT, 'refused'); END")


def alarmed(fleet: Fleet) -> set[tuple[str, str | None]]:
    return {(alarm.kind, alarm.agent_id) for alarm in opened(fleet)}


@pytest.mark.parametrize(
    "counts",
    [(MAX_INTEGER, 1), (MAX_INTEGER, 1, MAX_INTEGER, 1), (1, MAX_INTEGER, MAX_INTEGER - 1)],
    ids=str,
)
def test_a_counter_of_any_size_stops_no_alarm(fleet: Fleet, counts: tuple[int, ...]) -> None:
    for dropped in counts:
        # As an older manager filed the liar's reports, whose counters had no bound.
        fleet.change("UPDATE agents SET dropped = ?, dropped_at = ? WHERE agent_id = ?", dropped, NOON, ONE.agent_id)
        assert cycle(fleet).failures == ()
    fleet.refuse("replay", TWO.agent_id, 3, NOON)
    assert cycle(fleet).failures == ()
    assert alarmed(fleet) == {("replay", TWO.agent_id), ("samples_dropped", ONE.agent_id)}
    assert all(1 <= alarm.count <= MAX_INTEGER for alarm in opened(fleet))


def test_an_alarm_that_cannot_be_written_stops_no_other(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    refuse_rows(fleet, "INSERT ON alarms", f"NEW.agent_id = '{ONE.agent_id}'")
    for sender in (ONE, TWO):
        fleet.refuse("replay", sender.agent_id, 3, NOON)
    mine = publisher(fleet)
    for _ in range(3):
        assert [ONE.hostname in failure for failure in mine.cycle(NOON, lambda: True).failures] == [True]
    assert alarmed(fleet) == {("replay", TWO.agent_id)}
    assert [record.levelno for record in caplog.records if ONE.hostname in record.message] == [logging.ERROR]
    fleet.change("DROP TRIGGER full")
    assert mine.cycle(NOON, lambda: True).failures == ()
    assert alarmed(fleet) == {("replay", TWO.agent_id), ("replay", ONE.agent_id)}


def test_an_alarm_that_cannot_be_closed_stops_no_other(fleet: Fleet) -> None:
    for sender in (ONE, TWO):
        fleet.refuse("replay", sender.agent_id, 3, NOON)
    cycle(fleet)
    refuse_rows(fleet, "UPDATE ON alarms", f"NEW.agent_id = '{ONE.agent_id}'")
    for sender in (ONE, TWO):
        fleet.file(report(sender, 2, NOON + 20 * MINUTE))
    listen(fleet, NOON + 20 * MINUTE)
    cycle(fleet, NOON + 20 * MINUTE)
    assert alarmed(fleet) == {("replay", ONE.agent_id)}


def test_interfaces_that_cannot_be_written_stop_no_others(fleet: Fleet) -> None:
    refuse_rows(fleet, "INSERT ON agent_interfaces", "NEW.agent_ref = 1")
    [failure] = cycle(fleet).failures
    assert ONE.agent_id in failure
    assert fleet.rows("SELECT DISTINCT agent_ref FROM agent_interfaces") == [(2,)]


def test_an_edge_that_cannot_be_written_stops_no_other(fleet: Fleet) -> None:
    refuse_rows(fleet, "INSERT ON topology_edges", "NEW.a_ref = 1")
    three = replace(TWO, agent_id="33333333-3333-4333-8333-333333333333", hostname="three.example.net")
    fleet.file(report(TWO, 2, NOON), relays=(ONE.agent_id,))
    fleet.file(report(three, 1, NOON), relays=(TWO.agent_id,))
    [failure] = cycle(fleet).failures
    assert "edge" in failure
    assert fleet.rows("SELECT a_ref, b_ref FROM topology_edges") == [(2, 3)]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE reports SET base_id = id WHERE agent_ref = 1",
        "UPDATE agents SET hostname = CAST(x'ff1b' AS TEXT) WHERE ref = 1",
    ],
)
def test_a_damaged_row_stops_neither_alarms_nor_pages(fleet: Fleet, damage: str) -> None:
    fleet.change(damage)
    fleet.refuse("replay", TWO.agent_id, 3, NOON)
    assert cycle(fleet).failures == ()
    assert alarmed(fleet) == {("replay", TWO.agent_id)}
    assert TWO.hostname in page(fleet)
