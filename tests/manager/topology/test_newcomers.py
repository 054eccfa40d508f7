"""Which new agents are listed, and which are summed up."""

from __future__ import annotations

from kattila_manager.topology.newcomers import SETTLED_MS, crowd, is_new
from support.fleet import NOON, SECOND
from support.snapshots import agent


def test_an_agent_is_new_until_it_has_reported_for_five_minutes() -> None:
    assert is_new(agent(1, first_seen_at=NOON - SETTLED_MS, last_seen_at=NOON - 1))
    assert not is_new(agent(1, first_seen_at=NOON - SETTLED_MS, last_seen_at=NOON))
    # However long ago it fell silent.
    assert is_new(agent(1, first_seen_at=0, last_seen_at=SECOND))


def test_a_small_fleet_is_listed_completely_and_a_larger_one_may_grow_by_half() -> None:
    def left_out(settled: int, new: int) -> int:
        old = [agent(number) for number in range(settled)]
        return len(crowd([*old, *(agent(settled + number, first_seen_at=NOON - 10 * SECOND) for number in range(new))]))

    assert [left_out(0, new) for new in (0, 1, 30, 31, 1000)] == [0, 0, 0, 1, 970]
    assert [left_out(20, new) for new in (10, 11)] == [0, 1]
    assert [left_out(1000, new) for new in (500, 501)] == [0, 1]


def test_those_that_came_last_are_summed_up() -> None:
    new = [agent(number, first_seen_at=NOON - number * SECOND, last_seen_at=NOON) for number in range(40)]
    assert crowd(new) == {each.agent_id for each in new[:10]}
