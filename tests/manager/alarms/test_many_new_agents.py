"""The one alarm for new agents that had to wait, or that are too many to have an alarm each."""

from __future__ import annotations

from dataclasses import replace

from kattila_manager.alarms.alarm_rules import (
    QUIET_MS,
    AlarmKind,
    Closed,
    Event,
    Opened,
    Renewed,
    compare,
    find_evidence,
)
from kattila_manager.records import Agent, Snapshot
from support.fleet import MINUTE, NOON, SECOND
from support.snapshots import KEYS, agent, alarm, refusal, snapshot, watch

OLD = [agent(number) for number in range(1, 31)]
WAITED = refusal("too_many_agents", None, 5, NOON - MINUTE, detail="there were 600 new agents; it came from 192.0.2.1")


def new(count: int, last_seen_at: int = NOON - 5 * SECOND) -> list[Agent]:
    first_seen_at = last_seen_at - SECOND
    return [agent(100 + each, first_seen_at=first_seen_at, last_seen_at=last_seen_at) for each in range(count)]


def events(seen: Snapshot) -> tuple[Event, ...]:
    return compare(seen.open_alarms, find_evidence(seen, KEYS, watch(seen)), NOON)


def test_a_rollout_of_many_agents_raises_no_alarm() -> None:
    assert events(snapshot(*OLD, *new(500))) == ()


def test_a_few_new_agents_that_fall_silent_have_an_alarm_each() -> None:
    found = events(snapshot(*OLD, *new(10, NOON - 5 * MINUTE)))
    assert {event.subject[0] for event in found if isinstance(event, Opened)} == {AlarmKind.AGENT_SILENT}
    assert len(found) == 10


def test_many_new_agents_that_fall_silent_have_one_alarm_for_those_that_are_not_listed() -> None:
    found = events(snapshot(*OLD, *new(500, NOON - 5 * MINUTE)))
    [together] = [event for event in found if isinstance(event, Opened) and event.subject[1] is None]
    assert len(found) == 1 + 15
    assert together.subject == ("many_new_agents", None)
    assert (together.opened_at, together.last_at) == (NOON - 5 * MINUTE - SECOND, NOON - 5 * MINUTE)
    assert together.detail.startswith("485 new agents not listed, 485 silent; ")


def test_new_agents_that_had_to_wait_open_it_until_it_is_quiet() -> None:
    [opened] = events(snapshot(*OLD, refusals=(WAITED,)))
    assert isinstance(opened, Opened)
    assert (opened.subject, opened.opened_at, opened.counter) == (("many_new_agents", None), NOON - MINUTE, None)
    assert "others had to wait: there were 600 new agents; it came from 192.0.2.1" in opened.detail
    is_open = alarm("many_new_agents", None, detail=opened.detail)
    assert events(snapshot(*OLD, refusals=(WAITED,), open_alarms=(is_open,))) == ()
    quiet = replace(WAITED, last_at=NOON - QUIET_MS - 1)
    [closed] = events(snapshot(*OLD, refusals=(quiet,), open_alarms=(is_open,)))
    assert isinstance(closed, Closed)


def test_it_shows_the_newest_numbers() -> None:
    is_open = alarm("many_new_agents", None)
    found = events(snapshot(*OLD, *new(500, NOON - 5 * MINUTE), open_alarms=(is_open,)))
    assert [event.alarm for event in found if isinstance(event, Renewed)] == [is_open]


def test_while_the_server_is_away_it_stays_as_it_is() -> None:
    is_open = alarm("many_new_agents", None)
    away = (NOON - 60 * MINUTE, NOON - 5 * MINUTE)
    assert events(snapshot(*OLD, *new(500, NOON - 6 * MINUTE), open_alarms=(is_open,), listening=away)) == ()


def test_counters_of_agents_that_are_not_listed_open_no_alarm() -> None:
    flood = new(500)
    refused = tuple(refusal("replay", each.agent_id, 3, NOON - SECOND) for each in flood)
    dropping = [replace(each, dropped=5, dropped_at=NOON - SECOND) for each in flood]
    found = events(snapshot(*OLD, *dropping, refusals=refused))
    assert len(found) == 2 * 15
