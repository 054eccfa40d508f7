"""Disks that are full, read-only or closed, and damaged or foreign files: no error, and every loss is counted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kattila_agent.spool.sample import Sample
from kattila_agent.spool.sample_file import encode
from kattila_agent.spool.waiting import RESERVE_BYTES
from support.folder_access import make_world_readable
from support.small_disk import small_disk
from support.spool_samples import BOOT, CLOCK, NOW, filled, later, opened, reopened, sample
from support.waiting import PATIENCE_SECONDS

AS_NOBODY = """
import os, pathlib, sys
from kattila_agent.spool import Spool
from support.waiting import PATIENCE_SECONDS
from support.spool_samples import CLOCK, sample
from support.waiting import PATIENCE_SECONDS
os.setgroups([]); os.setgid(65534); os.setuid(65534)
spool = Spool(pathlib.Path(sys.argv[1]), 1 << 20, 60)
print(spool.numbers(), spool.problem)
spool.put(sample(2), CLOCK)
print(spool.numbers(), spool.waiting().dropped, spool.problem)
"""


def fill(disk: Path, leave: int) -> None:
    """Take all of a disk but for some bytes."""
    found = os.statvfs(disk)
    with (disk / "filler").open("ab") as filler:
        filler.write(bytes(found.f_bavail * found.f_frsize - leave))


def file_of(folder: Path, number: int) -> Path:
    return folder / f"{number:016d}"


# --- full


def test_on_a_full_disk_the_oldest_give_way_to_the_newest(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        spool = filled(disk / "spool", *range(1, 21))
        fill(disk, 0)
        spool.put(sample(21, blocks=2), CLOCK)
        told = spool.waiting()
        assert 21 in spool.numbers() and told.count + told.dropped == 21
        assert spool.numbers() == tuple(range(told.dropped + 1, 22))
        assert spool.problem == f"the disk of {disk}/spool is full: the oldest samples give way to new ones"
        assert reopened(spool, disk / "spool").waiting() == told


def test_the_spool_leaves_room_for_the_other_files_of_the_state_folder(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        spool = opened(disk / "spool")
        for number in range(1, 201):
            spool.put(sample(number), CLOCK)
        assert 0 < spool.waiting().count < 64
        assert spool.numbers()[-1] == 200 and spool.waiting().dropped == 200 - spool.waiting().count
        (disk / "counters.json.new").write_bytes(bytes(RESERVE_BYTES))


def test_a_full_disk_with_nothing_to_drop_counts_the_newest(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        spool = opened(disk / "spool")
        fill(disk, 0)
        spool.put(sample(1), CLOCK)
        assert (spool.numbers(), spool.waiting().dropped) == ((), 1)
        assert spool.problem is not None and "(No space left on device): samples that do not reach" in spool.problem
        assert list((disk / "spool").iterdir()) == []


def test_dropped_samples_are_counted_on_disk_once_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        spool = opened(disk / "spool")
        fill(disk, 0)
        spool.put(sample(1), CLOCK)
        (disk / "filler").unlink()
        spool.put(sample(2), CLOCK)
        assert (spool.numbers(), spool.waiting().dropped) == ((2,), 1)
        spool.drop(2)
        assert reopened(spool, disk / "spool").waiting().dropped == 2


def test_a_daemon_starts_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        spool = filled(disk / "spool", 1, 2)
        fill(disk, 0)
        assert reopened(spool, disk / "spool").numbers() == (1, 2)


def test_a_disk_that_others_keep_full_does_not_empty_the_spool(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 256) as disk:
        spool = filled(disk / "spool", *range(1, 41))
        fill(disk, 0)
        for number in range(41, 44):
            spool.put(sample(number), CLOCK)
            fill(disk, 0)
        assert spool.waiting().count > 20


# --- read-only, closed, gone


def test_on_a_read_only_disk_old_samples_are_read_and_new_ones_are_counted(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        spool = filled(disk / "spool", 1, 2)
        spool.close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        spool = opened(disk / "spool")
        assert (spool.numbers(), spool.read(2), spool.problem) == ((1, 2), sample(2, later(2)), None)
        spool.put(sample(3), CLOCK)
        assert spool.waiting().dropped == 1
        assert spool.problem is not None and "(Read-only file system)" in spool.problem
        spool.remove(1)
        spool.drop(2)
        assert (spool.numbers(), spool.waiting().dropped, spool.renumber(BOOT, 501)) == ((), 2, {})
        spool.clear()


def test_on_a_read_only_disk_without_a_folder(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        spool = opened(disk / "spool")
        assert spool.problem is not None and "(Read-only file system)" in spool.problem
        spool.put(sample(1), CLOCK)
        assert (spool.numbers(), spool.waiting().dropped) == ((), 1)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        spool.put(sample(2), CLOCK)
        assert (spool.numbers(), spool.waiting().dropped) == ((2,), 1)


@pytest.mark.parametrize("mode", [0o000, 0o500, 0o755])
def test_a_folder_of_another_user_is_an_error_with_a_remedy(tmp_path: Path, mode: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("taking another user's place needs root")
    filled(tmp_path / "spool", 1).close()
    (tmp_path / "spool").chmod(mode)
    make_world_readable(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(tmp_path / "spool")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
        env=environment,
    ).stdout.splitlines()
    assert told[0].startswith("() cannot store samples in") and told[1].startswith("() 1 cannot store samples in")
    assert told[1].endswith(
        "(Permission denied): samples that do not reach the manager at once are lost; "
        "the folder must have space and belong to the user that runs this (uid 65534)"
    )


def test_a_missing_state_folder_raises_nothing(tmp_path: Path) -> None:
    spool = opened(tmp_path / "missing" / "spool")
    spool.put(sample(1), CLOCK)
    assert spool.waiting().dropped == 1
    assert spool.problem is not None and "(No such file or directory)" in spool.problem


def test_a_file_in_the_place_of_the_folder_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("not a folder")
    spool = opened(tmp_path / "spool")
    spool.put(sample(1), CLOCK)
    assert spool.waiting().dropped == 1 and (tmp_path / "spool").read_text() == "not a folder"


def test_a_removed_folder_is_created_again_and_its_samples_are_counted(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 1, 2)
    subprocess.run(["rm", "-r", str(tmp_path / "spool")], check=True)
    assert spool.read(2) is None
    spool.put(sample(3), CLOCK)
    assert (spool.numbers(), spool.waiting().dropped) == ((3,), 2)
    assert reopened(spool, tmp_path / "spool").waiting().dropped == 2


# --- damaged, foreign, left over


def changed_at(position: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty, as after a power cut": lambda content: b"",
    "zeros, as after a power cut": lambda content: bytes(len(content)),
    "cut in the head": lambda content: content[:40],
    "cut in the telemetry": lambda content: content[:-1],
    "longer": lambda content: content + b"\n",
    "much longer": lambda content: content + bytes(2 << 20),
    "another version": lambda content: content.replace(b"kattila-spool 1", b"kattila-spool 2"),
    "one bit of the checksum": changed_at(20),
    "one bit of the moment": changed_at(30),
    "one bit of the telemetry": changed_at(-100),
    "something else": lambda content: b"#!/bin/sh\n",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_removed_and_counted(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = tmp_path / "spool"
    spool = filled(folder, 1, 2, 3)
    file_of(folder, 2).write_bytes(damage(file_of(folder, 2).read_bytes()))
    assert (spool.read(2), spool.numbers(), spool.waiting().dropped) == (None, (1, 3), 1)
    assert not file_of(folder, 2).exists()
    spool.close()
    file_of(folder, 3).write_bytes(damage(file_of(folder, 3).read_bytes()))
    found = opened(folder)
    assert (found.numbers(), found.waiting().dropped) == ((1,), 2)
    assert reopened(found, folder).waiting().dropped == 2


def test_a_valid_checksum_of_telemetry_that_expands_without_end(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    file_of(tmp_path / "spool", 1).write_bytes(encode(Sample(1, NOW, BOOT, 0, bytes(64 << 20))))
    spool = opened(tmp_path / "spool")
    assert (spool.read(1), spool.numbers(), spool.waiting().dropped) == (None, (), 1)


def test_a_removed_file_is_counted(tmp_path: Path) -> None:
    spool = filled(tmp_path / "spool", 1, 2)
    file_of(tmp_path / "spool", 1).unlink()
    assert (spool.read(1), spool.numbers(), spool.waiting().dropped) == (None, (2,), 1)


def test_half_written_files_are_swept_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    filled(folder, 1).close()
    for name in ("0000000000000002.new", "ledger.json.new", "notes.new", "notes", "42", "00000000000000001"):
        (folder / name).write_text("?")
    (folder / "0000000000000003").mkdir()
    (folder / "0000000000000004").symlink_to("/dev/zero")
    os.mkfifo(folder / "0000000000000005")
    spool = opened(folder)
    assert (spool.numbers(), spool.waiting().dropped, spool.problem) == ((1,), 0, None)
    left = {"notes.new", "notes", "42", "00000000000000001", "0000000000000003", "0000000000000004", "0000000000000005"}
    assert {path.name for path in folder.iterdir()} == left | {"0000000000000001"}


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"version":2}', '{"version":1,"dropped":-1}'])
def test_a_damaged_ledger_is_logged_and_counts_from_0(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    spool = filled(tmp_path / "spool", 1, 2)
    spool.drop(1)
    (tmp_path / "spool" / "ledger.json").write_text(text)
    found = reopened(spool, tmp_path / "spool")
    assert (found.numbers(), found.waiting().dropped) == ((2,), 0)
    assert "dropped samples are counted from 0" in caplog.text
    found.drop(2)
    assert reopened(found, tmp_path / "spool").waiting().dropped == 1


def test_a_dropped_file_that_a_power_cut_brings_back_is_counted_once(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spool = filled(folder, 1, 2)
    content = file_of(folder, 1).read_bytes()
    spool.drop(1)
    file_of(folder, 1).write_bytes(content)
    found = reopened(spool, folder)
    assert (found.numbers(), found.waiting().dropped) == ((2,), 1)
    assert not file_of(folder, 1).exists()
