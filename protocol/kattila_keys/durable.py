"""Replaces small files and creates folders so that a crash never leaves a partial one, and locks them with flock(2)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, content: bytes, mode: int) -> os.stat_result:
    """Replace a file durably and return its stat; the new file has `mode` from its first byte.

    A kill, a full disk or a power cut leaves the old file or the new one. The content is first written to `NAME.new`,
    which an error removes and which the next writer removes after a kill. Only one process may write at a time: see
    `locked`.

    Raises:
        OSError: the folder is missing, full or not writable.
    """
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    file = create(temporary, mode, owner_of=path)
    try:
        with os.fdopen(os.dup(file), "wb") as stream:
            stream.write(content)
        os.fsync(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    else:
        sync_folder(path.parent)
        return os.fstat(file)
    finally:
        os.close(file)


def create(path: Path, mode: int, *, owner_of: Path) -> int:
    """Create a file and return its descriptor, open for writing.

    As root, give the file to the owner of `owner_of`, or of its folder while `owner_of` does not exist. Otherwise a
    command that an administrator runs as root could leave files that the service cannot open.

    Raises:
        FileExistsError: the file exists.
        OSError: the folder is missing, full or not writable.
    """
    model = (owner_of if owner_of.exists() else owner_of.parent).stat()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    _set_mode_and_owner(file, mode, model)
    return file


def make_folder(path: Path, mode: int) -> None:
    """Create a folder unless it exists; as root, give it to the owner of its parent. Raises OSError."""
    try:
        path.mkdir(mode)
    except FileExistsError:
        return
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _set_mode_and_owner(file, mode, path.parent.stat())
    finally:
        os.close(file)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of a folder to disk. Raises OSError."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def locked(path: Path, mode: int) -> Iterator[None]:
    """Hold a lock file exclusively, after waiting for its current holder. Raises OSError, see `lock`."""
    file = lock(path, mode, wait=True)
    try:
        yield
    finally:
        if file is not None:
            os.close(file)


def lock(path: Path, mode: int, *, wait: bool) -> int | None:
    """Lock a file exclusively (flock(2)); return its descriptor, or None if it is locked and `wait` is false.

    Closing the descriptor releases the lock. A missing file is created, and stays.

    Raises:
        OSError: the file can be neither opened nor created, or its file system has no locks.
    """
    file = _open_or_create(path, mode)
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return file


def _open_or_create(path: Path, mode: int) -> int:
    # flock needs read access only, so every user who may read the guarded file may wait for its writer.
    for_reading = os.O_RDONLY | os.O_CLOEXEC
    try:
        return os.open(path, for_reading)
    except FileNotFoundError:
        pass
    try:
        return create(path, mode, owner_of=path)
    except FileExistsError:
        return os.open(path, for_reading)


def _set_mode_and_owner(file: int, mode: int, model: os.stat_result) -> None:
    os.fchmod(file, mode)
    if os.geteuid() == 0:
        os.fchown(file, model.st_uid, model.st_gid)
