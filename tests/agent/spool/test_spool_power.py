"""A power cut on a real file system: stored samples stay, and each dropped one is counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kattila_agent.spool import Spool
from support.counts import POWER_CUTS
from support.kill_points import run_watched
from support.power_cut import Disk, disk_with_power_cuts
from support.spool_samples import BOOT, CLOCK, filled, opened, sample

Found = tuple[tuple[int, ...], int]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with disk_with_power_cuts(tmp_path) as disk:
        yield disk


def found_after(disk: Disk, change: Callable[[Spool], object], blocks: int = 1000) -> list[Found]:
    """Return numbers and dropped as found after cuts before steps of a change, and at last after its end."""

    def work() -> None:
        change(opened(disk.path / "spool", blocks))
        disk.cut(0)

    assert run_watched(work, disk.cut) == 0
    steps = len(list(disk.image.parent.glob("image.*"))) - 1
    assert steps > 3
    cuts = min(steps, POWER_CUTS)
    return [found_in(disk, 1 + number * steps // cuts, blocks) for number in range(cuts)] + [found_in(disk, 0, blocks)]


def found_in(disk: Disk, cut: int, blocks: int) -> Found:
    with disk.after_cut(cut) as path:
        spool = opened(path / "spool", blocks)
        numbers, dropped = spool.numbers(), spool.waiting().dropped
        assert spool.problem is None and all(spool.read(number) is not None for number in numbers)
        spool.close()
        return numbers, dropped


def test_a_sample_survives_a_power_cut_right_after_it_was_put(disk: Disk) -> None:
    spool = opened(disk.path / "spool")
    for number in range(1, 6):
        spool.put(sample(number), CLOCK)
        disk.cut(number)
        assert found_in(disk, number, 1000) == (tuple(range(1, number + 1)), 0)


def test_at_each_step_of_putting(disk: Disk) -> None:
    filled(disk.path / "spool", 1, 2, 3).close()
    found = found_after(disk, lambda spool: spool.put(sample(4), CLOCK), blocks=3)
    assert found[-1] == ((2, 3, 4), 1)
    assert set(found) <= {((1, 2, 3), 0), ((2, 3), 1), ((2, 3, 4), 1)}


def drop_two(spool: Spool) -> None:
    spool.drop(2)
    spool.drop(3)


def test_at_each_step_of_dropping(disk: Disk) -> None:
    filled(disk.path / "spool", 1, 2, 3).close()
    found = found_after(disk, drop_two)
    assert found[-1] == ((1,), 2)
    assert set(found) <= {((1, 2, 3), 0), ((1, 3), 1), ((1,), 2)}


def test_at_each_step_of_a_reset(disk: Disk) -> None:
    filled(disk.path / "spool", 1, 2, 3).close()
    found = found_after(disk, Spool.clear)
    assert found[-1] == ((), 0)
    assert set(found) <= {((1, 2, 3), 0), ((), 0)}


def test_at_each_step_of_renumbering(disk: Disk) -> None:
    filled(disk.path / "spool", 101, 102, 103).close()
    found = found_after(disk, lambda spool: spool.renumber(BOOT, 501))
    assert found[-1] == ((501, 502, 503), 0)
    assert set(found) <= {((101, 102, 103), 0), ((501, 502, 503), 0)}


def begin_anew(spool: Spool) -> None:
    spool.clear()
    spool.put(sample(2), CLOCK)


def test_a_reset_survives_any_power_cut_once_numbers_start_again(disk: Disk) -> None:
    filled(disk.path / "spool", 1, 2, 3).close()
    found = found_after(disk, begin_anew)
    assert found[-1] == ((2,), 0)
    assert set(found) <= {((1, 2, 3), 0), ((), 0), ((2,), 0)}
