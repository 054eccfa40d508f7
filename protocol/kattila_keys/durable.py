"""Replaces small files so that a crash never leaves a partial one, and locks files with flock(2).

Every function takes the descriptor of an open folder and a name in it, and follows no symbolic link there: the owner of
the folder could have put one in the place of a file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe must not wait for its other end.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def folder(path: Path) -> Iterator[int]:
    """Open a folder meanwhile. The path may contain links, because settings name it. Raises OSError."""
    descriptor = os.open(path, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def subfolder(parent: int, name: str, mode: int) -> int:
    """Return the descriptor of a folder in another one; create it if it is missing.

    Raises:
        OSError: it is a link or another file, or cannot be created.
    """
    try:
        os.mkdir(name, mode, dir_fd=parent)
    except FileExistsError:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    descriptor = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    # The umask may have narrowed it.
    os.fchmod(descriptor, mode)
    os.fsync(parent)
    return descriptor


def open_file(parent: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Return the descriptor of a regular file that exists.

    Raises:
        OSError: it is missing, a link, or another kind of file, or may not be opened.
    """
    file = os.open(name, flags | _FILE, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "Not a regular file", name)
    return file


def read(parent: int, name: str) -> bytes:
    """Return the content of a regular file. Raises OSError, see `open_file`."""
    with os.fdopen(open_file(parent, name), "rb") as file:
        return file.read()


def write(parent: int, name: str, content: bytes, mode: int) -> os.stat_result:
    """Replace a file durably and return its stat; the new file has `mode` from its first byte.

    A kill, a full disk or a power cut leaves the old file or the new one. The content is first written to `NAME.new`,
    which an error removes and which the next writer removes after a kill. Only one process may write at a time: see
    `locked`.

    Raises:
        OSError: the folder is full or not writable.
    """
    temporary = f"{name}.new"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=parent)
    file = _create(parent, temporary, mode)
    try:
        with os.fdopen(os.dup(file), "wb") as stream:
            stream.write(content)
        os.fsync(file)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent)
        raise
    else:
        os.fsync(parent)
        return os.fstat(file)
    finally:
        os.close(file)


@contextmanager
def locked(parent: int, name: str, mode: int) -> Iterator[None]:
    """Hold a lock file exclusively, after waiting for its current holder. Raises OSError, see `lock`."""
    file = lock(parent, name, mode, wait=True)
    try:
        yield
    finally:
        if file is not None:
            os.close(file)


def lock(parent: int, name: str, mode: int, *, wait: bool) -> int | None:
    """Lock a file exclusively (flock(2)); return its descriptor, or None if it is locked and `wait` is false.

    Closing the descriptor releases the lock. A missing file is created, and stays.

    Raises:
        OSError: the file can be neither opened nor created, or its file system has no locks.
    """
    try:
        # flock needs read access only, so every user who may read the guarded file may wait for its writer.
        file = open_file(parent, name)
    except FileNotFoundError:
        try:
            file = _create(parent, name, mode)
        except FileExistsError:
            file = open_file(parent, name)
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return file


def _create(parent: int, name: str, mode: int) -> int:
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=parent)
    # The umask may have narrowed it.
    os.fchmod(file, mode)
    return file
