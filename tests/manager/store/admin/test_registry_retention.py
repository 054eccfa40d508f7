"""Alarms, refusals and agents that are pruned, and those that stay because they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kattila_manager.store.admin import registry_retention
from kattila_manager.store.admin.retention import RetentionLimits
from support.fleet import DAY, HOUR, MINUTE, NOON, Fleet, fleet_in
from support.publisher import MIB, cycle
from support.reports import node, report

AGE = 30 * DAY
OLD = NOON - AGE - DAY
ONE, TWO = node(1), node(2)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as fleet:
        fleet.file(report(ONE, 1, OLD))
        fleet.file(report(TWO, 1, NOON))
        yield fleet


def prune(fleet: Fleet) -> int:
    return registry_retention.prune(fleet.store.engine, fleet.store.lock, AGE, NOON, lambda: True)


def closed(fleet: Fleet, agent_id: str | None, counter: int | None, at: int = OLD) -> None:
    fleet.change(
        "INSERT INTO alarms (kind, agent_id, opened_at, closed_at, last_at, count, detail, counter) "
        "VALUES ('replay', ?, ?, ?, ?, 1, 'x', ?)",
        agent_id,
        at,
        at,
        at,
        counter,
    )


def counters(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT agent_id, counter FROM alarms ORDER BY id")


def test_old_alarms_go_except_the_newest_of_each_counter(fleet: Fleet) -> None:
    for counter in (1, 2, None):
        closed(fleet, TWO.agent_id, counter)
    closed(fleet, TWO.agent_id, 3)
    closed(fleet, None, 4)
    closed(fleet, "an agent that is not known", 5)
    closed(fleet, TWO.agent_id, None, NOON - DAY)
    closed(fleet, None, 6)
    assert prune(fleet) == 6
    assert counters(fleet) == [(TWO.agent_id, None), (None, 6)]


def test_open_alarms_stay(fleet: Fleet) -> None:
    closed(fleet, TWO.agent_id, None)
    fleet.change("UPDATE alarms SET closed_at = NULL")
    assert prune(fleet) == 0


def test_refusals_of_unknown_agents_go_after_an_hour(fleet: Fleet) -> None:
    for kind, agent_id, at in (
        ("replay", "unknown", NOON - 2 * HOUR),
        ("clock_skew", "unknown", NOON - MINUTE),
        ("replay", TWO.agent_id, OLD),
        ("replay", None, OLD),
    ):
        fleet.refuse(kind, agent_id, 1, at)
    prune(fleet)
    left = {("replay", TWO.agent_id), ("replay", "")}
    # Both rows of one unknown agent go together, because its id is the key.
    assert set(fleet.rows("SELECT kind, agent_id FROM refusals")) >= left
    assert ("replay", "unknown") not in set(fleet.rows("SELECT kind, agent_id FROM refusals"))


def test_a_forgotten_agent_goes_with_its_last_report(fleet: Fleet) -> None:
    for sender, at in ((ONE, OLD), (TWO, OLD)):
        fleet.change(
            "INSERT INTO forgotten SELECT ref, ?, highest_tick, latest_report_id FROM agents WHERE agent_id = ?",
            at,
            sender.agent_id,
        )
    assert prune(fleet) == 0
    cycle(fleet, NOON, RetentionLimits(AGE, 1024 * MIB))
    assert [agent_id for (agent_id,) in fleet.rows("SELECT agent_id FROM agents")] == [TWO.agent_id]
    assert fleet.rows("SELECT count(*) FROM agent_boots") == [(1,)]


def test_an_agent_that_came_back_stays(fleet: Fleet) -> None:
    fleet.change("INSERT INTO forgotten SELECT ref, ?, highest_tick, latest_report_id FROM agents", OLD)
    fleet.file(report(ONE, 2, NOON))
    fleet.change("DELETE FROM reports WHERE agent_ref = 1")
    assert prune(fleet) == 0
