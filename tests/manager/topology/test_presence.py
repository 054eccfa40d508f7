from __future__ import annotations

from dataclasses import replace

import pytest

from kattila_manager.topology.presence import Presence, Watch, presence
from support.fleet import DAY, HOUR, MINUTE, NOON, SECOND
from support.snapshots import agent

LONG = (NOON - DAY, NOON - 2 * SECOND)


@pytest.mark.parametrize(
    ("last_seen_at", "listening", "expected"),
    [
        (NOON - 5 * SECOND, LONG, Presence.REPORTING),
        (NOON - 90 * SECOND, LONG, Presence.REPORTING),
        (NOON - 90 * SECOND - 1, LONG, Presence.SILENT),
        (NOON - 90 * DAY, LONG, Presence.SILENT),
        # The server returned a minute ago. All agents again have three intervals to report.
        (NOON - HOUR, (NOON - MINUTE, NOON), Presence.UNHEARD),
        (NOON - HOUR, (NOON - 91 * SECOND, NOON), Presence.SILENT),
        (NOON - 10 * SECOND, (NOON - MINUTE, NOON), Presence.REPORTING),
        # The server is down, so no agent is silent.
        (NOON - HOUR, (NOON - DAY, NOON - 21 * SECOND), Presence.UNHEARD),
        (NOON - 5 * SECOND, (NOON - DAY, NOON - 21 * SECOND), Presence.UNHEARD),
        (NOON - HOUR, (NOON - DAY, NOON - 20 * SECOND), Presence.SILENT),
        (NOON - 5 * SECOND, None, Presence.UNHEARD),
        # Our clock went back an hour.
        (NOON + HOUR, LONG, Presence.REPORTING),
    ],
)
def test_presence(last_seen_at: int, listening: tuple[int, int] | None, expected: Presence) -> None:
    watch = Watch(30 * SECOND, NOON, listening)
    assert presence(agent(1, last_seen_at=last_seen_at), watch) is expected


@pytest.mark.parametrize(
    ("last_seen_at", "listening", "expected"),
    [
        (NOON - 90 * SECOND, LONG, Presence.RELAYED),
        (NOON - 90 * SECOND - 1, LONG, Presence.SILENT),
        (NOON - 5 * SECOND, (NOON - DAY, NOON - MINUTE), Presence.UNHEARD),
        (NOON - HOUR, (NOON - MINUTE, NOON), Presence.UNHEARD),
    ],
)
def test_an_agent_with_a_relayed_newest_report_is_relayed(
    last_seen_at: int, listening: tuple[int, int], expected: Presence
) -> None:
    cut_off = agent(1, last_seen_at=last_seen_at, relay_path=(agent(2).agent_id,))
    assert presence(cut_off, Watch(30 * SECOND, NOON, listening)) is expected


def test_a_longer_interval_allows_longer_silence() -> None:
    quiet = agent(1, last_seen_at=NOON - 10 * MINUTE)
    assert presence(quiet, Watch(5 * MINUTE, NOON, LONG)) is Presence.REPORTING
    assert presence(quiet, Watch(3 * MINUTE, NOON, LONG)) is Presence.SILENT


def test_an_agents_own_interval_counts_more_than_the_managers() -> None:
    slow = agent(1, last_seen_at=NOON - 10 * MINUTE, interval_seconds=300)
    assert presence(slow, Watch(30 * SECOND, NOON, LONG)) is Presence.REPORTING
    quick = agent(1, last_seen_at=NOON - 10 * SECOND, interval_seconds=3)
    assert presence(quick, Watch(30 * SECOND, NOON, LONG)) is Presence.SILENT
    assert presence(replace(slow, interval_seconds=None), Watch(30 * SECOND, NOON, LONG)) is Presence.SILENT
