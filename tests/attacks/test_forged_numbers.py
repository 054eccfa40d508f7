"""Forged numbers under an agent's id neither stop nor break it, and its measurements are all delivered.

The liar has the PSK, and knows everything about the agent: its id, its boot and its hardware.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kattila_protocol.errors import Replay
from kattila_protocol.names import MAX_COUNTER
from kattila_protocol.verdict import ACCEPTED
from support.victim import running_victim
from support.world.liar import assert_all_arrives, forge, lying_relay, numbers
from support.world.network import MANAGER
from support.world.node import INTERVAL_SECONDS
from support.world.world import World

MANY = 40


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Yield two machines that have reported for some minutes."""
    made = World(tmp_path, 2)
    try:
        made.start_all()
        made.run(5 * INTERVAL_SECONDS)
        yield made
    finally:
        made.close()


# --- One report


@pytest.mark.parametrize("forged", [{"sample": MAX_COUNTER}, {"tick": MAX_COUNTER}, {"tick": 2**52, "sample": 2**52}])
def test_the_highest_numbers_stop_neither_an_agent_nor_its_restart(tmp_path: Path, forged: dict[str, int]) -> None:
    with running_victim(tmp_path) as victim:
        with victim.running() as daemon:
            victim.wait_for_reports(daemon)
            verdict = victim.forge(victim.newest(), **forged)
            victim.wait_for_reports(daemon)
            assert verdict.outcome == "numbers_too_high"
        with victim.running() as daemon:
            victim.wait_for_reports(daemon)
            assert "damaged" not in daemon.log


@pytest.mark.parametrize(("tick", "sample"), [(1, MAX_COUNTER), (MAX_COUNTER, 1), (1, 2**52), (10**10, 1)])
def test_numbers_far_ahead_lose_nothing(world: World, tick: int, sample: int) -> None:
    node = world.nodes[0]
    last_tick, last_sample = numbers(node)
    forge(world, node, min(MAX_COUNTER, last_tick + tick), min(MAX_COUNTER, last_sample + sample))
    assert_all_arrives(world, node)


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_a_measurement_is_not_lost_to_a_forged_one_with_its_number(world: World, ahead: int) -> None:
    node = world.nodes[0]
    last_tick, last_sample = numbers(node)
    assert forge(world, node, last_tick + ahead, last_sample + ahead) == ACCEPTED
    assert_all_arrives(world, node)


def test_waiting_measurements_are_not_lost_to_forged_ones_with_their_numbers(world: World) -> None:
    node = world.nodes[0]
    world.stop_manager()
    world.run(5 * INTERVAL_SECONDS)
    taken = sorted(node.waiting().values())
    assert len(taken) >= 4
    for number in taken:
        assert forge(world, node, number, number) == ACCEPTED
    world.start_manager()
    assert_all_arrives(world, node)


def test_a_forged_report_does_not_freeze_the_state_of_an_agent(world: World) -> None:
    node = world.nodes[0]
    last_tick, last_sample = numbers(node)
    # Within the window, so that the agent's own messages are accepted as late ones.
    assert forge(world, node, last_tick + 100, last_sample + 100) == ACCEPTED
    world.run(2 * INTERVAL_SECONDS)
    query = f"SELECT hostname, last_seen_at FROM agents WHERE agent_id = '{node.agent_id}'"
    [(hostname, last_seen_at)] = world.manager.rows(query)
    assert hostname == node.name
    assert node.clock() - last_seen_at < 2 * INTERVAL_SECONDS * 1000


@pytest.mark.parametrize("timestamp", [-600_000, 0, 600_000])
@pytest.mark.parametrize("sampled_at", [0, MAX_COUNTER])
def test_forged_times_lose_nothing(world: World, timestamp: int, sampled_at: int) -> None:
    node = world.nodes[0]
    tick, sample = numbers(node)
    forge(world, node, tick + 1, sample + 1, timestamp=node.clock() + timestamp, sampled_at=sampled_at)
    assert_all_arrives(world, node)


# --- Many reports


def test_repeated_jumps_never_use_up_the_numbers(world: World) -> None:
    node = world.nodes[0]
    for _ in range(MANY):
        tick, sample = numbers(node)
        for jump in (10**15, 10**12, 10**9, 10**6, 10**5):
            forge(world, node, tick + jump, sample + jump)
        world.run(10)
    assert_all_arrives(world, node)


def test_reports_of_alternating_boots_lose_nothing(world: World) -> None:
    node = world.nodes[0]
    for number in range(MANY):
        tick, sample = numbers(node)
        boot_id = f"00000000-0000-4000-8000-{number % 7:012x}"
        forge(world, node, tick + number % 5, sample + number % 3, boot_id=boot_id)
        world.run(7)
    assert_all_arrives(world, node)


def test_a_reset_clears_forged_numbers(world: World) -> None:
    node = world.nodes[0]
    tick, sample = numbers(node)
    assert forge(world, node, tick + 10**6, sample + 10**6) == ACCEPTED
    world.manager.reset(node.agent_id)
    assert world.manager.rows("SELECT highest_tick, highest_sample FROM agents WHERE reset_at > 0") == [(0, 0)]
    assert_all_arrives(world, node)
    assert numbers(node) < (1000, 1000)


# --- Forged answers


@pytest.mark.parametrize("number", [MAX_COUNTER, 2**52])
def test_forged_verdicts_of_a_relay_lose_nothing(world: World, number: int) -> None:
    node, relay = world.nodes
    world.network.cut.add((node.address, MANAGER))
    with lying_relay(world, relay, Replay("x"), number, number) as lied_about:
        world.run(4 * INTERVAL_SECONDS)
    assert lied_about
    world.network.cut.clear()
    assert_all_arrives(world, node)


# --- The state folder


@pytest.mark.parametrize("number", [MAX_COUNTER + 2, MAX_COUNTER, 2**52 + 1, 10**15])
def test_a_folder_that_an_attack_has_left_behind_is_repaired(world: World, number: int) -> None:
    node = world.nodes[0]
    world.stop_manager()
    world.run(3 * INTERVAL_SECONDS)
    node.kill()
    waiting = sorted((node.folder / "spool").glob("[0-9]" * 16))
    for place, path in enumerate(waiting):
        path.rename(path.with_name(f"{number + place:016d}"))
    counters = {"agent_id": node.agent_id, "sample": number + len(waiting), "tick": number}
    (node.folder / "counters.json").write_text(json.dumps(counters))
    node.may_count_anew = True
    world.start_manager()
    world.start(node)
    assert_all_arrives(world, node)
