"""A file that is replaced: the old one or the new one, whatever fails, and to whom it belongs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kattila_keys import durable
from support.small_disk import small_disk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_mode_is_the_one_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        found = durable.write(tmp_path / "told", b"to all", 0o644)
    finally:
        os.umask(before)
    assert found == (tmp_path / "told").stat() and found.st_mode & 0o777 == 0o644


def test_what_a_killed_writer_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "told.new").write_bytes(b"hal")
    durable.write(tmp_path / "told", b"whole", 0o600)
    assert names(tmp_path) == ["told"] and (tmp_path / "told").read_bytes() == b"whole"


def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 64) as disk:
        durable.write(disk / "told", b"old", 0o600)
        with pytest.raises(OSError) as refused:
            durable.write(disk / "told", bytes(1 << 20), 0o600)
        assert refused.value.errno == errno.ENOSPC
        assert names(disk) == ["told"] and (disk / "told").read_bytes() == b"old"


def test_root_gives_a_new_file_to_the_owner_of_the_folder_and_an_old_one_to_its_own(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    os.chown(tmp_path, 65533, 65533)
    assert durable.write(tmp_path / "told", b"once", 0o600).st_uid == 65533
    os.chown(tmp_path / "told", 65534, 65534)
    assert durable.write(tmp_path / "told", b"again", 0o600).st_uid == 65534


def test_a_lock_is_had_by_one(tmp_path: Path) -> None:
    with durable.locked(tmp_path / "lock", 0o600):
        assert durable.lock(tmp_path / "lock", 0o600, wait=False) is None
    had = durable.lock(tmp_path / "lock", 0o600, wait=False)
    assert had is not None
    os.close(had)
