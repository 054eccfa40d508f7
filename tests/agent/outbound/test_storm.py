"""Many agents without their manager: what they send meanwhile, and after it comes back.

Real agents and the real manager in one process, on a virtual clock; the figures are printed (pytest -s).
"""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import pytest

from kattila_agent.outbound.http.clients import PEER, RELAY, UPDATES
from support.counts import STORM_AGENTS
from support.world.network import MANAGER
from support.world.node import INTERVAL_SECONDS
from support.world.world import World

AWAY_INTERVALS = 20
# A hundred agents look out a hundred times as often as one.
LOOK_SECONDS = 4.0


@pytest.fixture(autouse=True)
def _silent(caplog: pytest.LogCaptureFixture) -> None:
    # Until the test is over.
    caplog.set_level(logging.CRITICAL, logger="kattila")


@contextmanager
def fleet(*, meshed: bool) -> Iterator[World]:
    """Start all agents and let them find each other, in memory; without tunnels nobody can relay."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    world = World(folder, STORM_AGENTS)
    world.look_seconds = LOOK_SECONDS
    try:
        if not meshed:
            world.connect()
        world.start_all()
        world.run(2.5 * INTERVAL_SECONDS)
        yield world
    finally:
        world.close()
        shutil.rmtree(folder)


def made_per_interval(world: World, path: str, intervals: int) -> list[int]:
    """Let time pass, and return how many requests were made in each interval."""
    counts = [world.network.requests[path]]
    for _ in range(intervals):
        world.run(INTERVAL_SECONDS)
        counts.append(world.network.requests[path])
    return [after - before for before, after in itertools.pairwise(counts)]


def intervals_until_drained(world: World, at_most: int) -> int:
    for interval in range(1, at_most + 1):
        world.run(INTERVAL_SECONDS)
        if world.backlog == 0:
            return interval
    raise AssertionError(f"{world.backlog} samples wait after {at_most} intervals")


def assert_stored_once(world: World) -> None:
    world.check()
    rows = world.manager.stored()
    assert len(rows) == len(world.book.stored) == len(world.book.measured)


def the_manager_is_away(world: World) -> None:
    asked = world.network.requests[PEER]
    world.stop_manager()
    attempts, busiest = list[int](), 0.0
    for _ in range(AWAY_INTERVALS):
        measured = len(world.book.measured)
        attempts += made_per_interval(world, RELAY, 1)
        busiest = max(busiest, attempts[-1] / (len(world.book.measured) - measured))
    asked = world.network.requests[PEER] - asked
    world.start_manager()
    intervals = intervals_until_drained(world, 10)
    assert_stored_once(world)
    per_agent = asked / STORM_AGENTS / AWAY_INTERVALS
    print(f"relay attempts in each interval, of all {STORM_AGENTS} agents: {attempts}")
    print(f"peer queries: {asked}, {per_agent:.1f} for each agent in an interval; drained in {intervals} intervals")
    # Because of the jitter, a few agents report twice in an interval.
    assert busiest <= 3
    assert fmean(attempts[10:]) <= fmean(attempts[:10])
    # An agent that asks all others at each of its reports would ask STORM_AGENTS - 1 times.
    assert per_agent < 0.4 * STORM_AGENTS


def half_of_the_fleet_is_cut_off(world: World) -> None:
    cut, others = world.nodes[: STORM_AGENTS // 2], world.nodes[STORM_AGENTS // 2 :]
    world.network.cut |= {(node.address, MANAGER) for node in cut}
    attempts = made_per_interval(world, RELAY, 4)
    before = {node: world.network.requests_to[node.address, RELAY] for node in world.nodes}
    asked = world.network.requests[PEER]
    attempts += made_per_interval(world, RELAY, 4)
    asked = world.network.requests[PEER] - asked
    loads = sorted((world.network.requests_to[node.address, RELAY] - before[node]) / 4 for node in others)
    intervals_until_drained(world, 3)
    assert_stored_once(world)
    print(f"relay attempts in each interval, of {len(cut)} agents that are cut off: {attempts}")
    print(f"reports for one relay in an interval: {fmean(loads):.2f} on average, {loads[-1]:.1f} at most")
    print(f"peer queries: {asked / 4 / STORM_AGENTS:.1f} for each agent in an interval")
    assert fmean(attempts) <= 3 * len(cut)
    assert attempts[-1] <= 2 * len(cut)


def test_attempts_do_not_multiply_without_the_manager_nor_in_a_fleet_of_which_half_relays() -> None:
    with fleet(meshed=True) as world:
        the_manager_is_away(world)
        half_of_the_fleet_is_cut_off(world)


def test_a_slow_manager_gets_all_reports() -> None:
    room_per_second = 10
    with fleet(meshed=False) as world:
        world.stop_manager()
        world.run(AWAY_INTERVALS * INTERVAL_SECONDS)
        world.start_manager()

        def make_room() -> None:
            world.manager.room = room_per_second
            world.at(world.time + 1, make_room)

        make_room()
        posts = world.network.requests[UPDATES]
        intervals = intervals_until_drained(world, 40)
        posts = world.network.requests[UPDATES] - posts
        world.manager.room = None
        assert_stored_once(world)
    print(f"{room_per_second} reports taken in a second: drained in {intervals} intervals with {posts} posts")
