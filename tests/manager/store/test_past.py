"""What the database knew at earlier moments, and what it knows of them now; on SQLite, at moments that a test chose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kattila_manager.records import Arrival
from kattila_manager.store.read import past
from support.fleet import DAY, HOUR, MINUTE, NOON, SECOND, Fleet, fleet_in
from support.reports import Node, node, report

ONE, TWO, THREE = node(1), node(2), node(3)
CUT_AT, BACK_AT = NOON + 10 * MINUTE, NOON + 40 * MINUTE


def at(sample: int) -> int:
    return NOON + sample * MINUTE


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """ONE reports each minute for an hour; from 12:10 to 12:40 it cannot, and sends its spool from 12:45 on."""
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


def known(fleet: Fleet, moment: int) -> dict[str, int]:
    """Return each agent's newest sample as known at a moment."""
    found = fleet.store.read(lambda connection: past.newest_known(connection, moment))
    return {
        agent_id: sample
        for ref, report_id in found.items()
        for agent_id, sample in fleet.rows(
            "SELECT agent_id, sample FROM reports JOIN agents ON ref = agent_ref WHERE id = ? AND ref = ?",
            report_id,
            ref,
        )
    }


def arrivals(fleet: Fleet, sender: Node, since: int | None = None, until: int | None = None) -> list[Arrival]:
    ref = fleet.members(sender.agent_id)["ref"]
    return fleet.store.read(lambda connection: past.arrivals(connection, ref, since, until))


# --- As known then


@pytest.mark.parametrize(
    ("moment", "sample"),
    [(at(1), 1), (at(9) + SECOND, 9), (at(25), 9), (at(40) - 1, 9), (at(40), 40), (at(45), 45), (at(60) + DAY, 60)],
)
def test_the_newest_report_of_a_past_moment_is_the_highest_that_had_come(
    fleet: Fleet, moment: int, sample: int
) -> None:
    assert known(fleet, moment)[ONE.agent_id] == sample


def test_a_late_sample_is_never_the_newest_of_any_moment(fleet: Fleet) -> None:
    moments = range(NOON, at(61), 7 * SECOND)
    before = [known(fleet, moment).get(ONE.agent_id, 0) for moment in moments]
    fleet.file(report(ONE, 46, at(61), tick=500, sampled_at=at(46)))
    after = [known(fleet, moment).get(ONE.agent_id, 0) for moment in moments]
    assert after == before == sorted(before)
    assert not {*range(10, 40), 46} & set(before)


def test_before_its_first_report_an_agent_is_not_known(fleet: Fleet) -> None:
    fleet.file(report(THREE, 1, at(62)))
    assert known(fleet, at(1) - 1) == {}
    assert THREE.agent_id not in known(fleet, at(62) - 1)
    assert set(known(fleet, at(62))) == {ONE.agent_id, TWO.agent_id, THREE.agent_id}


def test_an_empty_database_knew_nothing(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as empty:
        assert known(empty, NOON) == {}


# --- As known now


def test_all_of_an_agents_reports_come_in_the_order_of_their_samples(fleet: Fleet) -> None:
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
def test_between_two_moments_is_what_was_measured_then_late_or_not(
    fleet: Fleet, since: int | None, until: int | None, samples: range
) -> None:
    assert [one.sample for one in arrivals(fleet, ONE, since, until)] == list(samples)


def test_each_tells_its_way(fleet: Fleet) -> None:
    assert {one.relay_path for one in arrivals(fleet, TWO)} == {ONE.agent_id}
    assert {one.relay_path for one in arrivals(fleet, ONE)} == {None}


def test_an_agent_that_only_registered_has_none(fleet: Fleet) -> None:
    ref = fleet.members(ONE.agent_id)["ref"] + 100
    assert fleet.store.read(lambda connection: past.arrivals(connection, ref, NOON, at(60))) == []
    assert fleet.store.read(lambda connection: past.reboots(connection, ref)) == []


def test_reboots_are_boots_after_the_first_and_clones_are_none(fleet: Fleet) -> None:
    ref = fleet.members(ONE.agent_id)["ref"]
    fleet.file(report(ONE.rebooted(), 61, at(61), tick=300))
    fleet.file(report(ONE.cloned(), 62, at(61) + SECOND, tick=301))
    fleet.file(report(ONE.rebooted(), 62, at(62), tick=302))
    fleet.file(report(ONE.rebooted(2), 63, at(90), tick=303))
    assert fleet.store.read(lambda connection: past.reboots(connection, ref)) == [at(61), at(90)]


@pytest.mark.parametrize("hours", [0, 1])
def test_after_pruning_the_past_is_what_is_left(fleet: Fleet, hours: int) -> None:
    fleet.change("DELETE FROM reports WHERE received_at < ?", NOON + hours * HOUR)
    left = arrivals(fleet, ONE, at(1), at(60))
    assert [one.sample for one in left] == ([60] if hours else [*range(1, 46), *range(47, 61)])
    assert known(fleet, at(30)) == ({} if hours else {ONE.agent_id: 9, TWO.agent_id: 9})
