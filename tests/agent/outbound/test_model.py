"""Any sequence of faults: no report is lost, accepted twice, or sent in a circle.

Real agents and the real manager in one process, without sockets, on a virtual clock. What must hold at each message is
asserted by the book that the world keeps (support.world.book). KATTILA_MODEL_EXAMPLES=1000 looks for longer, and each
time elsewhere.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.counts import FLEET_SEQUENCES
from support.store import new_database
from support.world.network import MANAGER, Fault
from support.world.node import BEGAN_AT, INTERVAL_SECONDS, Disk, Node
from support.world.world import World

EXAMPLES = int(os.environ.get("KATTILA_MODEL_EXAMPLES", "0"))
# So much is kept of what one machine measures that cannot be delivered; the others keep all of it.
FEW_BLOCKS = 6 * 4096
DAY_MS = 86_400_000
MOST_INTERVALS = 80

machines = st.integers(0, 4)
offsets = st.sampled_from([0, 0, 300, -20_000, 90_000, -3_600_000, 3_600_000, 400 * DAY_MS, -BEGAN_AT])


class FleetMachine(RuleBasedStateMachine):
    """Five machines, all meshed or in a chain, and a sixth that only ever runs copies of their disks."""

    empty: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self.copies: list[tuple[Node, Disk]] = []
        self.is_sound = True

    @initialize(seed=st.integers(0, 1000), is_chain=st.booleans())
    def a_fleet_starts(self, seed: int, is_chain: bool) -> None:
        self.world = World(self.folder, 6, seed=seed, empty=self.empty)
        self.world.look_seconds = 3.0
        self.world.nodes[2].settings["SPOOL_MAX_BYTES"] = str(FEW_BLOCKS)
        if is_chain:
            self.world.connect((0, 1), (1, 2), (2, 3), (3, 4), (0, 5))
        self.on = self.world.nodes[:5]
        for node in self.on:
            self.world.start(node, self.world.chance.random() * 5)
        self.time_passes(40)

    def node(self, number: int) -> Node:
        return self.on[number % len(self.on)]

    # --- the world

    @rule(seconds=st.sampled_from([1, 5, 29, 31, 45, 64, 100, 160, 400]))
    def time_passes(self, seconds: float) -> None:
        self.is_sound = False
        self.world.run(seconds)
        self.world.check()
        self.is_sound = True

    @rule(number=machines, back=st.booleans())
    def the_manager_is_out_of_reach(self, number: int, back: bool) -> None:
        way = (self.node(number).address, MANAGER)
        if back:
            self.world.network.cut.discard(way)
        else:
            self.world.network.cut.add(way)

    @rule(numbers=st.lists(machines, min_size=2, max_size=5, unique=True), seconds=st.sampled_from([31, 65]))
    def one_after_the_other_loses_the_manager(self, numbers: list[int], seconds: float) -> None:
        for number in numbers:
            self.the_manager_is_out_of_reach(number, back=False)
            self.time_passes(seconds)

    @rule(one=machines, other=machines, ways=st.sampled_from(["there", "both", "none"]))
    def a_tunnel_breaks_or_heals(self, one: int, other: int, ways: str) -> None:
        there = (self.node(one).address, self.node(other).address)
        self.world.network.cut -= {there, there[::-1]}
        if ways != "none":
            self.world.network.cut |= {there, there[::-1]} if ways == "both" else {there}

    @rule(number=machines, offset=offsets)
    def a_clock_is_set(self, number: int, offset: int) -> None:
        self.node(number).offset = offset

    @rule(number=machines, steps=st.integers(1, 45))
    def a_process_is_killed_soon(self, number: int, steps: int) -> None:
        self.node(number).steps_left = steps

    @rule(number=machines, seconds=st.sampled_from([3, 20, 150]), offset=st.sampled_from([None, 0, -BEGAN_AT]))
    def a_machine_boots(self, number: int, seconds: float, offset: int | None) -> None:
        node = self.node(number)
        node.boot()
        if offset is not None:
            node.offset = offset
        self.world.start(node, seconds)

    @rule(number=machines, faults=st.lists(st.sampled_from(list(Fault)), min_size=1, max_size=4))
    def messages_go_wrong(self, number: int, faults: list[Fault]) -> None:
        self.world.network.faults[self.node(number).address].extend(faults)

    @rule(back=st.integers(0, 60))
    def somebody_sends_an_old_message_again(self, back: int) -> None:
        overheard = self.world.network.overheard
        if back < len(overheard):
            self.world.network.replay(overheard[-1 - back])

    @rule()
    def the_manager_restarts(self) -> None:
        self.world.manager.restart()

    @rule(is_there=st.booleans(), room=st.sampled_from([None, None, 0, 1, 3]))
    def the_manager_goes_comes_or_is_busy(self, is_there: bool, room: int | None) -> None:
        self.world.manager.room = room
        if is_there:
            self.world.start_manager()
        else:
            self.world.stop_manager()

    @rule(number=machines)
    def an_agent_is_reset(self, number: int) -> None:
        if self.node(number).agent is not None:
            self.world.reset(self.node(number))

    # --- disks

    @rule(number=machines)
    def a_disk_is_copied(self, number: int) -> None:
        self.copies.append((self.node(number), self.copy_of(self.node(number))))

    @precondition(lambda self: self.copies)
    @rule(which=st.integers(0, 9))
    def a_disk_is_restored(self, which: int) -> None:
        self.restore(*self.copies[which % len(self.copies)])

    @rule(number=machines, seconds=st.sampled_from([40, 100, 300]), is_cut=st.booleans())
    def a_disk_is_set_back(self, number: int, seconds: float, is_cut: bool) -> None:
        node = self.node(number)
        copy = self.copy_of(node)
        self.time_passes(seconds)
        if is_cut:
            self.the_manager_is_out_of_reach(number, back=False)
        self.restore(node, copy)

    @precondition(lambda self: self.copies and len(self.on) == 5)
    @rule(which=st.integers(0, 9))
    def a_disk_is_cloned(self, which: int) -> None:
        _, copy = self.copies[which % len(self.copies)]
        node = self.world.nodes[5]
        node.put_clone(copy)
        self.on.append(node)
        self.world.start(node)

    def copy_of(self, node: Node) -> Disk:
        return node.copy_disk(self.folder / f"copy-{len(list(self.folder.iterdir()))}")

    def restore(self, node: Node, copy: Disk) -> None:
        node.boot()
        node.put_disk(copy)
        self.world.start(node, 3)

    # --- the end

    def teardown(self) -> None:
        try:
            if self.is_sound:
                self.all_heals()
        finally:
            self.world.close()
            shutil.rmtree(self.folder)

    def all_heals(self) -> None:
        world = self.world
        world.network.cut.clear()
        world.network.faults.clear()
        world.manager.room = None
        world.start_manager()
        for node in self.on:
            node.offset, node.steps_left = 0, None
        # Which of two machines an id belongs to shows within some minutes.
        world.run(10 * INTERVAL_SECONDS)
        for _ in range(MOST_INTERVALS):
            world.run(INTERVAL_SECONDS)
            world.check()
            if world.backlog == 0:
                break
        assert world.backlog == 0, f"{world.backlog} samples are never delivered"
        assert all(node.agent is not None for node in self.on)
        assert len({node.agent_id for node in self.on}) == len(self.on), "two machines report under one id"


@pytest.fixture(autouse=True)
def _silent(caplog: pytest.LogCaptureFixture) -> None:
    # Until the test is over.
    caplog.set_level(logging.CRITICAL, logger="kattila")


def test_any_sequence_of_faults(tmp_path: Path) -> None:
    FleetMachine.empty = new_database(tmp_path)
    run_state_machine_as_test(
        FleetMachine,
        settings=settings(
            max_examples=EXAMPLES or FLEET_SEQUENCES,
            derandomize=not EXAMPLES,
            database=None,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Shrinking a failure takes minutes, so its steps are shown unchanged.
            phases=[Phase.generate],
            print_blob=True,
        ),
    )


def test_a_restored_disk_loses_nothing_if_the_manager_is_reachable(tmp_path: Path) -> None:
    world = World(tmp_path, 1)
    (node,) = world.nodes
    try:
        world.start(node)
        world.run(100)
        copy = node.copy_disk(tmp_path / "copy")
        world.run(300)
        node.boot()
        node.put_disk(copy)
        world.start(node)
        world.run(100)
        world.check()
        assert len(world.book.stored) == len(world.book.measured)
    finally:
        world.close()
