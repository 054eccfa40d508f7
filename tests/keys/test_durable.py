"""Replacing a file: a failure leaves the old file or the new one, with the right mode and owner."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kattila_keys import durable
from support.small_disk import small_disk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_umask_does_not_change_the_mode(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        stat = durable.write(tmp_path / "file", b"content", 0o644)
    finally:
        os.umask(before)
    assert stat == (tmp_path / "file").stat() and stat.st_mode & 0o777 == 0o644


def test_the_temporary_file_of_a_killed_writer_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file.new").write_bytes(b"hal")
    durable.write(tmp_path / "file", b"whole", 0o600)
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"whole"


def test_a_full_disk_leaves_only_the_old_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 64) as disk:
        durable.write(disk / "file", b"old", 0o600)
        with pytest.raises(OSError) as refused:
            durable.write(disk / "file", bytes(1 << 20), 0o600)
        assert refused.value.errno == errno.ENOSPC
        assert names(disk) == ["file"] and (disk / "file").read_bytes() == b"old"


def test_root_gives_a_new_file_to_the_owner_of_its_folder_and_keeps_an_old_owner(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    os.chown(tmp_path, 65533, 65533)
    assert durable.write(tmp_path / "file", b"once", 0o600).st_uid == 65533
    os.chown(tmp_path / "file", 65534, 65534)
    assert durable.write(tmp_path / "file", b"again", 0o600).st_uid == 65534


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    with durable.locked(tmp_path / "lock", 0o600):
        assert durable.lock(tmp_path / "lock", 0o600, wait=False) is None
    lock = durable.lock(tmp_path / "lock", 0o600, wait=False)
    assert lock is not None
    os.close(lock)
