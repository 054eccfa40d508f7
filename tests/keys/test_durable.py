"""Replacing a file: a failure leaves the old file or the new one, with the right mode, and no link is followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kattila_keys import durable
from support.small_disk import small_disk


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    with durable.folder(tmp_path) as descriptor:
        yield descriptor


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_umask_does_not_change_the_mode(tmp_path: Path, folder: int) -> None:
    before = os.umask(0o077)
    try:
        written = durable.write(folder, "file", b"content", 0o644)
        os.close(durable.subfolder(folder, "below", 0o755))
    finally:
        os.umask(before)
    assert written == (tmp_path / "file").stat() and written.st_mode & 0o777 == 0o644
    assert stat.S_IMODE((tmp_path / "below").stat().st_mode) == 0o755


def test_the_temporary_file_of_a_killed_writer_is_replaced(tmp_path: Path, folder: int) -> None:
    (tmp_path / "file.new").write_bytes(b"hal")
    durable.write(folder, "file", b"whole", 0o600)
    assert names(tmp_path) == ["file"] and durable.read(folder, "file") == b"whole"


def test_a_full_disk_leaves_only_the_old_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 64) as disk, durable.folder(disk) as folder:
        durable.write(folder, "file", b"old", 0o600)
        with pytest.raises(OSError) as refused:
            durable.write(folder, "file", bytes(1 << 20), 0o600)
        assert refused.value.errno == errno.ENOSPC
        assert names(disk) == ["file"] and durable.read(folder, "file") == b"old"


def test_no_link_in_the_folder_is_followed(tmp_path: Path, folder: int) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"theirs")
    inside = tmp_path / "inside"
    inside.mkdir()
    with durable.folder(inside) as own:
        for name in ("file", "file.new", "lock"):
            (inside / name).symlink_to(outside / "file")
        (inside / "below").symlink_to(outside)
        for attempt in (
            lambda: durable.read(own, "file"),
            lambda: durable.lock(own, "lock", 0o600, wait=False),
            lambda: durable.subfolder(own, "below", 0o700),
        ):
            with pytest.raises(OSError):
                attempt()
        # A link in the place of the file is replaced.
        durable.write(own, "file", b"own", 0o600)
    assert not (inside / "file").is_symlink()
    assert (outside / "file").read_bytes() == b"theirs"


def test_a_pipe_in_the_place_of_a_file_does_not_block(tmp_path: Path, folder: int) -> None:
    os.mkfifo(tmp_path / "file")
    for attempt in (lambda: durable.read(folder, "file"), lambda: durable.lock(folder, "file", 0o600, wait=False)):
        with pytest.raises(OSError, match="Not a regular file"):
            attempt()


def test_a_lock_has_one_holder(folder: int) -> None:
    with durable.locked(folder, "lock", 0o600):
        assert durable.lock(folder, "lock", 0o600, wait=False) is None
    lock = durable.lock(folder, "lock", 0o600, wait=False)
    assert lock is not None
    os.close(lock)
