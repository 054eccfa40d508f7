"""The agent's numbers follow the manager's, also if the manager refuses them or an answer is forged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kattila_protocol.errors import IdentityUnproven, NumbersTooHigh, Refusal, Replay, SampleTaken
from kattila_protocol.freshness import MAX_JUMP
from kattila_protocol.names import MAX_COUNTER
from support.world.liar import assert_all_arrives, forge, lying_relay, numbers
from support.world.network import MANAGER
from support.world.node import INTERVAL_SECONDS
from support.world.world import World

LIES: list[tuple[Refusal | None, int]] = [
    (Replay("x"), 10**10),
    (Replay("x"), 0),
    (NumbersTooHigh("x"), 0),
    (NumbersTooHigh("x"), MAX_COUNTER),
    (SampleTaken("x"), 0),
    (SampleTaken("x"), MAX_COUNTER),
    (IdentityUnproven("x"), MAX_COUNTER),
]


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


@pytest.mark.parametrize(("refusal", "number"), LIES)
def test_no_answer_of_a_lying_relay_loses_anything(world: World, refusal: Refusal, number: int) -> None:
    node, relay = world.nodes
    world.network.cut.add((node.address, MANAGER))
    with lying_relay(world, relay, refusal, number, number) as lied_about:
        world.run(4 * INTERVAL_SECONDS)
    assert lied_about
    world.network.cut.clear()
    node.may_count_anew = True
    assert_all_arrives(world, node)


def test_numbers_that_the_manager_refuses_as_too_high_start_again_above_its_own(world: World) -> None:
    node = world.nodes[0]
    (tick, sample), identity = numbers(node), node.agent.reporter.identity if node.agent else None
    assert identity is not None
    identity.raise_above(node.agent_id, tick + 10**9, sample + 2 * MAX_JUMP)
    node.may_count_anew = True
    assert_all_arrives(world, node)
    assert numbers(node) < (tick + 100, sample + 100)


def test_numbers_that_others_used_are_exceeded_within_one_cycle(world: World) -> None:
    node = world.nodes[0]
    tick, sample = numbers(node)
    # The tick is used, and so is the next sample.
    forge(world, node, tick + 500, sample + 1)
    measured = len(node.owed)
    world.run(INTERVAL_SECONDS)
    assert len(node.owed) > measured
    assert not node.waiting()
    assert numbers(node) > (tick + 500, sample + 1)
