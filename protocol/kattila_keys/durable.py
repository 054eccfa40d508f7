"""Files and folders that are there whole or not at all, and locks between processes.

May live here: how a small file is replaced so that a kill, a full disk or a power cut leaves the old or the new one, to
whom it then belongs, and who may change it meanwhile. Not here: what is in a file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, content: bytes, mode: int) -> os.stat_result:
    """Replace a file, with this mode from its first byte, and return its stat; it is on the disk when this returns.

    What is half written stands beside it as `NAME.new`. After an error nothing of it stays; what a kill leaves is
    removed by whoever writes next: one writer at a time, see `locked`.

    Raises:
        OSError: the folder is missing, full or not writable.
    """
    aside = path.with_name(f"{path.name}.new")
    aside.unlink(missing_ok=True)
    file = create(aside, mode, owner_of=path)
    try:
        _write_and_sync(file, content)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    else:
        sync_folder(path.parent)
        return os.fstat(file)
    finally:
        os.close(file)


def create(path: Path, mode: int, *, owner_of: Path) -> int:
    """Create a file, which root gives to the owner of `owner_of`, or of its folder while that is missing.

    So a command that is run once as root beside a service leaves nothing behind that the service cannot open.

    Raises:
        FileExistsError: it is there.
        OSError: the folder is missing, full or not writable.
    """
    model = (owner_of if owner_of.exists() else owner_of.parent).stat()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    _settle(file, mode, model)
    return file


def make_folder(path: Path, mode: int) -> None:
    """Make a folder where it is missing; root gives it to the owner of the folder above. Raises OSError."""
    try:
        path.mkdir(mode)
    except FileExistsError:
        return
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _settle(file, mode, path.parent.stat())
    finally:
        os.close(file)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk as they are now; raises OSError."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def locked(path: Path, mode: int) -> Iterator[None]:
    """Hold the lock that a file stands for; waits for who has it. Raises OSError as `lock` does."""
    file = lock(path, mode, wait=True)
    try:
        yield
    finally:
        if file is not None:
            os.close(file)


def lock(path: Path, mode: int, *, wait: bool) -> int | None:
    """Return the open file that holds the lock until it is closed (flock(2)), or None if another one has it.

    The file is made where it is missing, and stays.

    Raises:
        OSError: the file can neither be opened nor made.
    """
    file = _open_or_create(path, mode)
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _open_or_create(path: Path, mode: int) -> int:
    # Open for reading is enough for flock: who may read what it guards, may wait for whoever changes it.
    for_reading = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, for_reading)
    except FileNotFoundError:
        pass
    try:
        return create(path, mode, owner_of=path)
    except FileExistsError:
        return os.open(path, for_reading)


def _settle(file: int, mode: int, model: os.stat_result) -> None:
    os.fchmod(file, mode)
    if os.geteuid() == 0:
        os.fchown(file, model.st_uid, model.st_gid)


def _write_and_sync(file: int, content: bytes) -> None:
    with os.fdopen(os.dup(file), "wb") as stream:
        stream.write(content)
    os.fsync(file)
