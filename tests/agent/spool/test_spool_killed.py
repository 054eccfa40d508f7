"""SIGKILL at any moment: stored samples stay, none appears twice, and each dropped one is counted once."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kattila_agent.spool import Spool
from kattila_agent.spool.sample import Sample
from support.counts import SPOOL_KILLS
from support.kill_points import killed_at_each_step
from support.spool_samples import BOOT, CLOCK, DAY_SECONDS, NOW, OTHER_BOOT, filled, later, opened, sample

# Announces each change before it is made, and again when it is done.
WORKER = """
import pathlib, random, sys
from support.spool_samples import CLOCK, opened, sample
spool, chance = opened(pathlib.Path(sys.argv[1]), blocks=8), random.Random(int(sys.argv[3]))
for number in range(int(sys.argv[2]), 1 << 40):
    changes = [("put", number)]
    if chance.random() < 0.4:
        changes.append((chance.choice(["remove", "drop"]), None))
    for what, which in changes:
        which = which or chance.choice(spool.numbers())
        print(what, which, flush=True)
        if what == "put":
            spool.put(sample(which, blocks=chance.choice([1, 1, 3])), CLOCK)
        else:
            getattr(spool, what)(which)
        print("done", flush=True)
"""


def numbers_and_dropped(folder: Path, blocks: int = 1000) -> tuple[tuple[int, ...], int]:
    """Return what a new start finds."""
    spool = opened(folder, blocks)
    spool.close()
    return spool.numbers(), spool.waiting().dropped


def copies_of(folder: Path) -> Callable[[object], Path]:
    """Return what copies a folder to one beside it, which is named by an argument."""
    return lambda which: Path(shutil.copytree(folder, folder.with_name(f"{folder.name}-{which}")))


# --- at each step


def test_at_each_step_of_putting(tmp_path: Path) -> None:
    filled(tmp_path / "spool", 1, 2, 3).close()
    found = []
    for folder in killed_at_each_step(
        copies_of(tmp_path / "spool"), lambda folder: opened(folder, blocks=3).put(sample(4), CLOCK)
    ):
        found.append(numbers_and_dropped(folder, blocks=3))
    assert found[-1] == ((2, 3, 4), 1)
    assert set(found) == {((1, 2, 3), 0), ((2, 3), 1), ((2, 3, 4), 1)}


def test_at_each_step_of_the_first_start(tmp_path: Path) -> None:
    def new_folder(step: int) -> Path:
        (tmp_path / f"{step}").mkdir()
        return tmp_path / f"{step}" / "spool"

    found = [numbers_and_dropped(folder) for folder in killed_at_each_step(new_folder, lambda f: filled(f, 1, 2))]
    assert found[-1] == ((1, 2), 0)
    assert set(found) == {((), 0), ((1,), 0), ((1, 2), 0)}


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda spool: spool.drop(2), (1, 3)),
        (lambda spool: spool.expire(later(DAY_SECONDS + 2.5)), (3,)),
        (lambda spool: spool.keep_only_boot(OTHER_BOOT), ()),
    ],
    ids=["drop", "expire", "keep_only_boot"],
)
def test_at_each_step_of_dropping(tmp_path: Path, change: Callable[[Spool], object], left: tuple[int, ...]) -> None:
    filled(tmp_path / "spool", 1, 2, 3).close()
    killed = killed_at_each_step(copies_of(tmp_path / "spool"), lambda folder: change(opened(folder)))
    found = [numbers_and_dropped(folder) for folder in killed]
    assert found[-1] == (left, 3 - len(left))
    assert set(found) == {((1, 2, 3), 0), found[-1]}


def test_at_each_step_of_a_reset(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 1, 2, 3, 4)
    spool.drop(2)
    spool.close()
    killed = killed_at_each_step(copies_of(tmp_path / "spool"), lambda folder: opened(folder).clear())
    found = [numbers_and_dropped(folder) for folder in killed]
    assert found[-1] == ((), 0)
    assert set(found) == {((1, 3, 4), 1), ((), 0)}


def test_at_each_step_of_renumbering_and_at_each_step_of_completing_that(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 101, 102, 103)
    spool.put(Sample(100, NOW - 10**6, OTHER_BOOT, 5, b"{}"), CLOCK)
    spool.drop(101)
    spool.put(sample(104, later(104)), later(104))
    spool.close()
    as_before, as_wanted = (100, 102, 103, 104), (100, 501, 502, 503)
    found = []
    for interrupted in killed_at_each_step(copies_of(tmp_path / "spool"), lambda f: opened(f).renumber(BOOT, 501)):
        found += [in_order(folder) for folder in killed_at_each_step(copies_of(interrupted), opened)]
    assert found[-1] == as_wanted
    assert set(found) == {as_before, as_wanted}


def in_order(folder: Path) -> tuple[int, ...]:
    """Return the numbers that a new start finds; their moments have to be in the order of measuring."""
    spool = opened(folder)
    read = [spool.read(number) for number in spool.numbers()]
    spool.close()
    moments = [one.sampled_at for one in read if one is not None]
    assert moments == [NOW - 10**6, *(later(number).now for number in (102, 103, 104))]
    assert spool.waiting().dropped == 1
    return spool.numbers()


# --- at random


@dataclass
class Done:
    """What a worker said that it did, and what it was about to do."""

    put: set[int] = field(default_factory=set)
    delivered: set[int] = field(default_factory=set)
    begun: tuple[str, int] | None = None

    def hear(self, line: str) -> None:
        if line != "done":
            what, _, number = line.partition(" ")
            self.begun = what, int(number)
            return
        assert self.begun is not None
        what, which = self.begun
        {"put": self.put, "remove": self.delivered, "drop": set[int]()}[what].add(which)
        self.begun = None

    def settle(self, numbers: tuple[int, ...]) -> None:
        """Count what was begun as done if that is what is found."""
        if self.begun is not None and (self.begun[1] in numbers) is (self.begun[0] == "put"):
            self.hear("done")
        self.begun = None


def worked_until_killed(folder: Path, done: Done, chance: random.Random) -> None:
    arguments = [str(folder), str(max(done.put, default=0) + 2), str(chance.randrange(1000))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    ) as worker:
        assert worker.stdout is not None
        for _ in range(chance.randrange(1, 60)):
            done.hear(worker.stdout.readline().strip())
        time.sleep(chance.random() / 200)
        worker.kill()
        for line in worker.stdout:
            done.hear(line.strip())


def test_at_random_moments_again_and_again(tmp_path: Path) -> None:
    done, dropped, chance = Done(), 0, random.Random(86)
    for _ in range(SPOOL_KILLS):
        worked_until_killed(tmp_path / "spool", done, chance)
        spool = opened(tmp_path / "spool", blocks=8)
        numbers, dropped = spool.numbers(), spool.waiting().dropped
        done.settle(numbers)
        assert set(numbers) <= done.put - done.delivered
        assert len(numbers) + len(done.delivered) + dropped == len(done.put)
        assert all(spool.read(number) is not None for number in numbers)
        spool.close()
    assert dropped > SPOOL_KILLS and len(done.delivered) > SPOOL_KILLS
