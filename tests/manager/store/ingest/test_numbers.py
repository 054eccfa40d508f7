"""Which ticks and samples the manager takes: absence, restored databases and resets make no honest one impossible."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from kattila_manager.store.ingest import registry
from kattila_protocol.freshness import MAX_JUMP, highest_possible
from kattila_protocol.names import MAX_COUNTER
from support.fleet import DAY, MINUTE, NOON, SECOND, Fleet, fleet_in
from support.reports import node, report, telemetry

ONE = node(1)
LIMIT = highest_possible(NOON)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as made:
        yield made


def outcome(fleet: Fleet, sample: int, now: int = NOON, *, tick: int | None = None) -> str:
    return fleet.file(report(ONE, sample, now, tick=tick)).outcome


def test_a_first_report_may_have_any_possible_number(fleet: Fleet) -> None:
    assert outcome(fleet, LIMIT + 1) == "numbers_too_high"
    assert outcome(fleet, 1, tick=MAX_COUNTER) == "numbers_too_high"
    assert fleet.rows("SELECT * FROM agents") == []
    assert outcome(fleet, LIMIT) == "accepted"


@pytest.mark.parametrize(("sample", "tick"), [(7 + MAX_JUMP, 8), (8, 7 + MAX_JUMP)])
def test_a_number_may_jump_by_a_million(fleet: Fleet, sample: int, tick: int) -> None:
    outcome(fleet, 7)
    assert outcome(fleet, sample + (sample > 8), tick=tick + (tick > 8)) == "numbers_too_high"
    assert outcome(fleet, sample, tick=tick) == "accepted"


def test_an_impossible_report_changes_nothing(fleet: Fleet) -> None:
    outcome(fleet, 7)
    before = fleet.dump()
    refused = fleet.file(report(ONE.rebooted(), 8, NOON + 3 * MINUTE, tick=2**50))
    assert (refused.outcome, refused.highest_tick, refused.highest_sample) == ("numbers_too_high", 7, 7)
    assert fleet.dump() == before


@pytest.mark.parametrize("gone", [DAY, 30 * DAY, 3650 * DAY])
def test_a_long_absence_makes_no_number_impossible(fleet: Fleet, gone: int) -> None:
    outcome(fleet, 7)
    # A report each second, and its number used twice.
    assert outcome(fleet, 7 + 2 * gone // SECOND, NOON + gone) == "accepted"


def test_samples_of_a_day_that_arrive_late_are_taken(fleet: Fleet) -> None:
    outcome(fleet, 7)
    back = NOON + DAY
    assert outcome(fleet, 86_407, back) == "accepted"
    for sample in range(8, 86_407, 5000):
        assert outcome(fleet, sample, back, tick=100_000 + sample) == "accepted"


def test_a_restored_database_takes_the_numbers_of_its_agents(fleet: Fleet, tmp_path: Path) -> None:
    outcome(fleet, 7)
    with closing(sqlite3.connect(fleet.database)) as source, closing(sqlite3.connect(tmp_path / "backup")) as target:
        source.backup(target)
    later = NOON + 7 * DAY
    # A node that drained its spool just after the backup, more than a hundred messages a second.
    assert outcome(fleet, 700_000, later) == "accepted"
    (tmp_path / "restored").mkdir()
    (tmp_path / "backup").rename(tmp_path / "restored" / "kattila_manager.db")
    with fleet_in(tmp_path / "restored") as restored:
        assert restored.rows("SELECT highest_tick FROM agents") == [(7,)]
        assert restored.file(report(ONE, 700_001, later + MINUTE)).outcome == "accepted"


def test_a_step_back_of_the_clock_makes_the_next_number_no_less_possible(fleet: Fleet) -> None:
    outcome(fleet, 7)
    assert outcome(fleet, 8, NOON - DAY) == "accepted"


def test_a_sample_with_another_measurement_is_refused(fleet: Fleet) -> None:
    outcome(fleet, 7)
    other = replace(report(ONE, 7, NOON, tick=8), telemetry=telemetry(ONE, seed=99))
    refused = fleet.file(other)
    assert (refused.outcome, refused.highest_sample) == ("sample_taken", 7)
    assert fleet.file(replace(other, sample=8)).outcome == "accepted"
    # The same measurement, signed again.
    assert fleet.file(replace(other, sample=8, tick=9, timestamp=NOON + MINUTE, nonce="ab" * 16)).outcome == "duplicate"


def test_a_sample_whose_report_cannot_be_read_stays_a_duplicate(fleet: Fleet) -> None:
    outcome(fleet, 7)
    fleet.change("UPDATE reports SET body = x'00'")
    other = replace(report(ONE, 7, NOON, tick=8), telemetry=telemetry(ONE, seed=99))
    assert fleet.file(other).outcome == "duplicate"


def test_after_a_reset_low_numbers_are_taken_and_known_samples_stay_duplicates(fleet: Fleet) -> None:
    for sample in (7, 500_000):
        outcome(fleet, sample)
    fleet.store.write(lambda connection: registry.reset(connection, ONE.agent_id, NOON))
    later = NOON + SECOND
    again = replace(report(ONE, 500_000, later, tick=1), telemetry=telemetry(ONE, seed=500_000))
    assert fleet.file(again).outcome == "duplicate"
    assert outcome(fleet, 8, later, tick=2) == "accepted"
    assert outcome(fleet, 7, later, tick=3) == "duplicate"
    assert outcome(fleet, 9, later, tick=4) == "accepted"
    members = fleet.members(ONE.agent_id)
    assert (members["highest_tick"], members["highest_sample"]) == (4, 9)
    [(sample,)] = fleet.rows("SELECT sample FROM reports WHERE id = ?", members["latest_report_id"])
    assert sample == 9
