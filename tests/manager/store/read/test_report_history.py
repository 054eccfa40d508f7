"""The reports and reboots of one agent over time, read from SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kattila_manager.records import Arrival
from kattila_manager.store.read import report_history
from support.fleet import HOUR, MINUTE, NOON, SECOND, Fleet, fleet_in
from support.reports import Node, node, report

ONE, TWO = node(1), node(2)
CUT_AT, BACK_AT = NOON + 10 * MINUTE, NOON + 40 * MINUTE


def at(sample: int) -> int:
    return NOON + sample * MINUTE


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """ONE reports every minute for an hour, except from 12:10 to 12:40; it sends its spool from 12:45."""
    with fleet_in(tmp_path) as made:
        in_order = [*range(1, 10), *range(40, 46)]
        for sample in in_order:
            made.file(report(ONE, sample, at(sample)))
            made.file(report(TWO, sample, at(sample)), relays=(ONE.agent_id,))
        for tick, sample in enumerate(range(10, 40), 46):
            made.file(report(ONE, sample, at(45) + tick * SECOND, tick=tick, sampled_at=at(sample)))
        for sample in range(47, 61):
            made.file(report(ONE, sample, at(sample), tick=sample + 100))
        yield made


def arrivals(fleet: Fleet, sender: Node, since: int | None = None, until: int | None = None) -> list[Arrival]:
    ref = fleet.members(sender.agent_id)["ref"]
    return fleet.store.read(lambda connection: report_history.arrivals(connection, ref, since, until))


def test_an_agents_reports_are_ordered_by_sample(fleet: Fleet) -> None:
    found = arrivals(fleet, ONE)
    assert [one.sample for one in found] == [*range(1, 46), *range(47, 61)]
    assert [one.sample for one in found if one.sampled_at is not None] == list(range(10, 40))
    assert all(abs(one.measured_at - at(one.sample)) <= SECOND for one in found)


@pytest.mark.parametrize(
    ("since", "until", "samples"),
    [
        (at(5), at(7), range(5, 8)),
        (at(5) + 1, at(7) - 1, range(6, 7)),
        (at(20), at(42), range(20, 43)),
        (None, at(3), range(1, 4)),
        (at(58), None, range(58, 61)),
        (at(61), None, range(0)),
        (None, at(1) - 1, range(0)),
        (at(30), at(20), range(0)),
    ],
)
def test_a_period_has_all_samples_measured_in_it_late_or_not(
    fleet: Fleet, since: int | None, until: int | None, samples: range
) -> None:
    assert [one.sample for one in arrivals(fleet, ONE, since, until)] == list(samples)


def test_each_arrival_names_its_relays(fleet: Fleet) -> None:
    assert {one.relay_path for one in arrivals(fleet, TWO)} == {ONE.agent_id}
    assert {one.relay_path for one in arrivals(fleet, ONE)} == {None}


def test_an_agent_that_only_registered_has_no_history(fleet: Fleet) -> None:
    ref = fleet.members(ONE.agent_id)["ref"] + 100
    assert fleet.store.read(lambda connection: report_history.arrivals(connection, ref, NOON, at(60))) == []
    assert fleet.store.read(lambda connection: report_history.reboots(connection, ref)) == []


def test_reboots_are_boots_after_the_first_without_clones(fleet: Fleet) -> None:
    ref = fleet.members(ONE.agent_id)["ref"]
    fleet.file(report(ONE.rebooted(), 61, at(61), tick=300))
    fleet.file(report(ONE.cloned(), 62, at(61) + SECOND, tick=301))
    fleet.file(report(ONE.rebooted(), 62, at(62), tick=302))
    fleet.file(report(ONE.rebooted(2), 63, at(90), tick=303))
    assert fleet.store.read(lambda connection: report_history.reboots(connection, ref)) == [at(61), at(90)]


@pytest.mark.parametrize("hours", [0, 1])
def test_after_pruning_the_remaining_reports_are_the_history(fleet: Fleet, hours: int) -> None:
    fleet.change("DELETE FROM reports WHERE received_at < ?", NOON + hours * HOUR)
    left = arrivals(fleet, ONE, at(1), at(60))
    assert [one.sample for one in left] == ([60] if hours else [*range(1, 46), *range(47, 61)])
