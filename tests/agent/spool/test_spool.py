"""Samples stay whole and in order until they are delivered; beyond the limits the oldest are dropped."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kattila_agent.spool import SpoolInUseError, Waiting
from kattila_agent.spool.sample import Sample
from support.small_disk import small_disk
from support.spool_samples import BLOCK, BOOT, CLOCK, NOW, OTHER_BOOT, filled, later, opened, reopened, sample
from support.waiting import PATIENCE_SECONDS


def test_an_empty_spool(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool")
    assert spool.waiting() == Waiting(count=0, bytes=0, dropped=0, oldest_sampled_at=None, highest=0)
    assert (spool.numbers(), spool.read(1), spool.problem) == ((), None, None)


def test_a_sample_is_read_back_to_the_byte(tmp_path: Path) -> None:
    spool, put = opened(tmp_path / "spool"), sample(41)
    spool.put(put, CLOCK)
    assert spool.read(41) == put
    assert reopened(spool, tmp_path / "spool").read(41) == put


@pytest.mark.parametrize("telemetry", [b"", b"{}", b"\n" * 5, bytes(1 << 20)])
def test_any_telemetry_up_to_a_whole_body(tmp_path: Path, telemetry: bytes) -> None:
    spool, put = opened(tmp_path / "spool"), Sample(1, NOW, BOOT, 5, telemetry)
    spool.put(put, CLOCK)
    assert spool.read(1) == put


def test_numbers_are_in_order_however_samples_arrived(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 9, 100, 10)
    assert spool.numbers() == (9, 10, 100)
    assert reopened(spool, tmp_path / "spool").numbers() == (9, 10, 100)


def test_waiting_samples_are_reported(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 7, 8)
    spool.put(sample(9, later(9), blocks=3), later(9))
    told = Waiting(count=3, bytes=5 * BLOCK, dropped=0, oldest_sampled_at=later(7).now, highest=9)
    assert spool.waiting() == told
    assert reopened(spool, tmp_path / "spool").waiting() == told


def test_the_bytes_are_those_on_the_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        spool = filled(disk / "spool", 1, 2)
        spool.put(sample(3, blocks=5), CLOCK)
        assert spool.waiting().bytes == sum(512 * path.stat().st_blocks for path in (disk / "spool").iterdir())


def test_a_delivered_sample_is_gone_and_not_counted(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 1, 2)
    spool.remove(1)
    spool.remove(1)
    assert (spool.numbers(), spool.read(1), spool.waiting().dropped) == ((2,), None, 0)
    assert reopened(spool, tmp_path / "spool").numbers() == (2,)


def test_a_dropped_sample_is_counted_once_even_after_a_restart(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 1, 2)
    spool.drop(1)
    spool.drop(1)
    spool.drop(7)
    assert (spool.numbers(), spool.waiting().dropped) == ((2,), 1)
    assert reopened(spool, tmp_path / "spool").waiting().dropped == 1


def test_beyond_its_bytes_the_oldest_are_dropped_and_counted(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 1, 2, 3, 4, blocks=4)
    spool.put(sample(5, blocks=2), CLOCK)
    assert (spool.numbers(), spool.waiting().dropped) == ((3, 4, 5), 2)
    assert reopened(spool, tmp_path / "spool", blocks=4).waiting().dropped == 2


def test_a_sample_that_alone_is_too_much_drops_no_other(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 1, 2, blocks=4)
    spool.put(sample(3, blocks=5), CLOCK)
    assert (spool.numbers(), spool.waiting().dropped) == ((1, 2), 1)
    assert spool.problem is not None and "a sample alone is more than SPOOL_MAX_BYTES" in spool.problem
    spool.put(sample(4), CLOCK)
    assert spool.problem is None


def test_a_lower_limit_applies_with_the_next_sample(tmp_path: Path) -> None:
    spool = reopened(filled(tmp_path / "spool", 1, 2, 3, 4), tmp_path / "spool", blocks=2)
    spool.put(sample(5), CLOCK)
    assert (spool.numbers(), spool.waiting().dropped) == ((4, 5), 3)


def test_a_repeated_number_replaces_and_counts_the_first(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 1)
    spool.put(sample(1, later(60)), later(60))
    assert spool.read(1) == sample(1, later(60))
    assert spool.waiting().dropped == 1
    assert reopened(spool, tmp_path / "spool").read(1) == sample(1, later(60))


def test_after_a_reset_nothing_is_left_and_numbers_start_again(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 1, 2, 3)
    spool.drop(2)
    spool.clear()
    assert spool.waiting() == Waiting(count=0, bytes=0, dropped=0, oldest_sampled_at=None, highest=0)
    spool.put(sample(1), CLOCK)
    found = reopened(spool, tmp_path / "spool")
    assert (found.numbers(), found.waiting().dropped) == ((1,), 0)


def test_a_clone_keeps_its_own_samples_and_drops_the_others(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 3)
    before = later(-900)
    spool.put(sample(1, before), CLOCK)
    spool.put(Sample(2, NOW - 10**6, OTHER_BOOT, 5, b"{}"), CLOCK)
    spool.keep_only_boot(BOOT)
    assert (spool.numbers(), spool.waiting().dropped) == ((1, 3), 1)
    # The new id counts from 1: its second sample is not the one that was dropped.
    spool.put(sample(2), CLOCK)
    assert reopened(spool, tmp_path / "spool").read(2) == sample(2)


def test_after_a_restored_snapshot_the_samples_of_this_boot_get_new_numbers_in_order(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 101, 102)
    spool.put(Sample(100, NOW - 10**6, OTHER_BOOT, 5, b"{}"), CLOCK)
    assert spool.renumber(BOOT, 501) == {101: 501, 102: 502}
    assert spool.numbers() == (100, 501, 502)
    moments = [sample(number, later(number)).sampled_at for number in (101, 102)]
    found = reopened(spool, tmp_path / "spool")
    read = [found.read(number) for number in (501, 502)]
    assert [one.sampled_at for one in read if one is not None] == moments
    assert (found.waiting().highest, found.waiting().dropped) == (502, 0)


def test_new_numbers_take_the_place_of_no_sample(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 101)
    spool.put(Sample(600, NOW, OTHER_BOOT, 5, b"{}"), CLOCK)
    assert spool.renumber(BOOT, 501) == {101: 601}
    assert spool.numbers() == (600, 601)


def test_an_empty_spool_is_not_renumbered(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool")
    assert spool.renumber(BOOT, 501) == {}
    assert list((tmp_path / "spool").iterdir()) == []


def test_only_the_owner_of_the_state_folder_may_read_telemetry(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 1, 2)
    spool.drop(1)
    found = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in (*tmp_path.glob("*"), *tmp_path.glob("*/*"))}
    assert found == {"spool": "0o700", "0000000000000002": "0o600", "ledger.json": "0o600"}


def test_a_second_daemon_on_the_folder_is_refused(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 1)
    (tmp_path / "spool" / "0000000000000002.new").write_text("being written")
    code = "import sys, pathlib; from kattila_agent.spool import Spool; Spool(pathlib.Path(sys.argv[1]), 9999, 9)"
    second = [sys.executable, "-c", code, str(tmp_path / "spool")]
    refused = subprocess.run(second, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert refused.returncode == 1
    assert "SpoolInUseError: another agent uses" in refused.stderr and "need a STATE_DIR each" in refused.stderr
    assert (tmp_path / "spool" / "0000000000000002.new").exists()
    spool.close()
    assert subprocess.run(second, capture_output=True, timeout=PATIENCE_SECONDS, check=False).returncode == 0


def test_a_second_one_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 1)
    with pytest.raises(SpoolInUseError):
        opened(tmp_path / "spool")
    assert spool.numbers() == (1,)


def test_a_reset_by_another_thread_meanwhile(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool", blocks=20)
    stop = threading.Event()

    def reset_again_and_again() -> None:
        while not stop.is_set():
            spool.clear()

    resetting = threading.Thread(target=reset_again_and_again)
    resetting.start()
    try:
        for number in range(1, 200):
            spool.put(sample(number), CLOCK)
            assert spool.read(number) in (None, sample(number))
            spool.drop(number - 2)
            spool.remove(number - 1)
    finally:
        stop.set()
        resetting.join()
    told = spool.waiting()
    found = reopened(spool, tmp_path / "spool")
    assert (found.waiting(), found.problem) == (told, None)
