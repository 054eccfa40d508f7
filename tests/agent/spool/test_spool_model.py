"""Any sequence of changes, restarts, clock steps and full disks: the spool behaves like a dictionary and a sum."""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import dataclass, replace
from itertools import accumulate, count
from pathlib import Path
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from kattila_agent.spool.sample import Moment, Sample
from support.counts import FULL_DISK_SEQUENCES, SPOOL_SEQUENCES
from support.small_disk import small_disk
from support.spool_samples import BLOCK, NOW, opened, sample

BLOCKS = 12
MAX_AGE_SECONDS = 100
IN_1970 = 30_000


@dataclass(frozen=True)
class Kept:
    """A sample as the model knows it."""

    sample: Sample
    blocks: int


class SpoolMachine(RuleBasedStateMachine):
    """A spool beside its model: what is kept, by number, and how many were dropped."""

    disk: ClassVar[Path]
    can_fill: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.disk)) / "spool"
        self.spool = opened(self.folder, BLOCKS, MAX_AGE_SECONDS)
        self.kept: dict[int, Kept] = {}
        self.dropped, self.number, self.boots = 0, 0, 0
        # Whether some of `dropped` may be counted in memory alone, as the disk had no room for it.
        self.may_forget = False
        self.clock = Moment(IN_1970, self.boot_id(0), 0)

    @staticmethod
    def boot_id(number: int) -> str:
        return f"b0000000-0000-4000-8000-{number:012d}"

    def teardown(self) -> None:
        self.filler.unlink(missing_ok=True)
        self.spool.clear()
        self.spool.close()

    # --- the world

    @property
    def filler(self) -> Path:
        return self.disk / "filler"

    @rule(seconds=st.integers(1, 60))
    def time_passes(self, seconds: int) -> None:
        went = 1000 * seconds
        self.clock = replace(self.clock, now=self.clock.now + went, since_boot_ms=self.clock.since_boot_ms + went)

    @rule(now=st.sampled_from([IN_1970, NOW - 86_400_000, NOW, NOW + 50_000]))
    def the_clock_is_set(self, now: int) -> None:
        self.clock = replace(self.clock, now=now)

    @rule()
    def the_node_boots(self) -> None:
        self.boots += 1
        self.clock = Moment(self.clock.now + 10_000, self.boot_id(self.boots), 10_000)
        self.the_agent_starts()

    @rule()
    def the_agent_starts(self) -> None:
        self.spool.close()
        self.spool = opened(self.folder, BLOCKS, MAX_AGE_SECONDS)
        if self.may_forget:
            assert self.spool.waiting().dropped <= self.dropped
            self.dropped, self.may_forget = self.spool.waiting().dropped, False

    @precondition(lambda self: self.can_fill)
    @rule(blocks=st.integers(0, 8))
    def the_disk_fills(self, blocks: int) -> None:
        self.filler.unlink(missing_ok=True)
        free = os.statvfs(self.disk).f_bavail
        self.filler.write_bytes(bytes(BLOCK * max(0, free - blocks)))

    @rule()
    def there_is_room_again(self) -> None:
        self.filler.unlink(missing_ok=True)

    # --- what the agent does

    @rule(blocks=st.sampled_from([1, 1, 1, 2, 4, BLOCKS + 1]))
    def put(self, blocks: int) -> None:
        self.number += 1
        put = sample(self.number, self.clock, blocks)
        self.spool.put(put, self.clock)
        self.may_forget &= self.filler.exists()
        self.forget(self.too_old())
        if blocks > BLOCKS:
            self.count(1)
            return
        self.forget(self.oldest(sum(kept.blocks for kept in self.kept.values()) + blocks - BLOCKS))
        self.kept[self.number] = Kept(put, blocks)
        self.see_what_did_not_fit()

    @rule(chance=st.randoms(use_true_random=False))
    def deliver(self, chance: random.Random) -> None:
        for number in self.one(chance):
            self.spool.remove(number)
            del self.kept[number]

    @rule(chance=st.randoms(use_true_random=False))
    def drop(self, chance: random.Random) -> None:
        for number in self.one(chance):
            self.spool.drop(number)
            self.forget([number])

    @rule()
    def expire(self) -> None:
        too_old = self.too_old()
        before = self.spool.waiting().count
        assert before - self.spool.expire(self.clock).count == len(too_old)
        self.forget(too_old)

    @rule(above=st.integers(1, 10))
    def renumber(self, above: int) -> None:
        first = self.number + above
        mine = [number for number in sorted(self.kept) if self.kept[number].sample.boot_id == self.clock.boot_id]
        for to, number in enumerate(mine, first):
            kept = self.kept.pop(number)
            self.kept[to] = replace(kept, sample=replace(kept.sample, number=to))
        assert self.spool.renumber(self.clock.boot_id, first) == dict(zip(mine, count(first), strict=False))
        self.number = first + len(mine) - 1

    @rule()
    def a_clone_takes_a_new_id(self) -> None:
        self.spool.keep_only_boot(self.clock.boot_id)
        self.forget([n for n, kept in self.kept.items() if kept.sample.boot_id != self.clock.boot_id])
        # Numbers that were dropped come again.
        self.number = max(self.kept, default=0)

    @rule()
    def reset(self) -> None:
        self.spool.clear()
        self.kept, self.dropped, self.number, self.may_forget = {}, 0, 0, False

    # --- the model

    def one(self, chance: random.Random) -> list[int]:
        return [chance.choice(sorted(self.kept))] if self.kept else []

    def too_old(self) -> list[int]:
        return [number for number, kept in self.kept.items() if self.is_too_old(kept.sample)]

    def is_too_old(self, kept: Sample) -> bool:
        if kept.boot_id == self.clock.boot_id:
            return self.clock.since_boot_ms - kept.since_boot_ms > 1000 * MAX_AGE_SECONDS
        return kept.sampled_at > NOW // 2 and self.clock.now - kept.sampled_at > 1000 * MAX_AGE_SECONDS

    def oldest(self, blocks: int) -> list[int]:
        numbers = sorted(self.kept)
        before = accumulate((self.kept[number].blocks for number in numbers), initial=0)
        return [number for number, freed in zip(numbers, before, strict=False) if freed < blocks]

    def forget(self, numbers: list[int]) -> None:
        for number in numbers:
            del self.kept[number]
        self.count(len(numbers))

    def count(self, dropped: int) -> None:
        self.dropped += dropped
        if dropped:
            self.may_forget = self.filler.exists()

    def see_what_did_not_fit(self) -> None:
        """On a full disk, take the spool's word for how many had to go, but not for which."""
        if not self.filler.exists():
            return
        gone = sorted(self.kept.keys() - set(self.spool.numbers()))
        older = [number for number in gone if number != self.number]
        assert older == sorted(self.kept)[: len(older)]
        self.forget(gone)

    @invariant()
    def what_is_kept_is_there_and_the_rest_is_counted(self) -> None:
        told = self.spool.waiting()
        assert self.spool.numbers() == tuple(sorted(self.kept))
        assert (told.count, told.dropped) == (len(self.kept), self.dropped)
        assert told.bytes == BLOCK * sum(kept.blocks for kept in self.kept.values()) <= BLOCK * BLOCKS
        assert told.highest == max(self.kept, default=0)
        assert all(self.spool.read(number) == kept.sample for number, kept in self.kept.items())


def run(disk: Path, examples: int, *, can_fill: bool) -> None:
    SpoolMachine.disk, SpoolMachine.can_fill = disk, can_fill
    run_state_machine_as_test(
        SpoolMachine,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_any_sequence(tmp_path: Path) -> None:
    run(tmp_path, SPOOL_SEQUENCES, can_fill=False)


def test_any_sequence_on_a_disk_that_fills(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4 * 64) as disk:
        run(disk, FULL_DISK_SEQUENCES, can_fill=True)
