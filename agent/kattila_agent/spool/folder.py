"""The files of one spool: a sample in each file with a number as its name, and `ledger.json`.

Only the owner may read telemetry: the folder has mode 0700 and its files 0600. Symbolic links are not followed.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path

from kattila_agent.spool import ledger, sample_file
from kattila_agent.spool.dropping import Entry
from kattila_agent.spool.ledger import Ledger
from kattila_agent.spool.sample import Sample
from kattila_agent.spool.sample_file import DamagedError
from kattila_keys import durable

_FOLDER_MODE = 0o700
_MODE = 0o600
_LEDGER = "ledger.json"
_HALF_WRITTEN = re.compile(r"(?:[0-9]{16}|ledger\.json)\.new")
# Names sort as numbers do.
_NAME = re.compile(r"[0-9]{16}")
_name_of = "{:016d}".format


class SpoolInUseError(OSError):
    """Another process uses the folder; the text says so, and what to do."""


class Folder:
    """The folder of one spool. For one thread at a time.

    Unless stated otherwise, methods raise OSError if the folder is missing, full or not ours, or the disk is broken.
    """

    def __init__(self, path: Path) -> None:
        """Take a path whose parent exists. Touches nothing yet."""
        self.path = path
        self.is_entered = False
        # The descriptor of the folder; -1 before the first `enter`.
        self._folder = -1

    def enter(self) -> bool:
        """Create the folder if necessary, and lock it against others until `leave`.

        Returns whether the folder must be read: False if it is still the one of the last call.

        Raises:
            SpoolInUseError: another process has locked it.
        """
        if self.is_entered:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._folder), self.path.lstat()):
                    return False
            self.leave()
        with durable.folder(self.path.parent) as parent:
            folder = durable.subfolder(parent, self.path.name, _FOLDER_MODE)
        # The folder is its own lock file, so that it can be locked even on a full or read-only disk.
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(folder)
            if not isinstance(error, BlockingIOError):
                raise
            raise SpoolInUseError(
                f"another agent uses {self.path}: two on one machine need a STATE_DIR each, as they are two nodes"
            ) from None
        self._folder, self.is_entered = folder, True
        return True

    def leave(self) -> None:
        """Let another process use the folder."""
        if self.is_entered:
            os.close(self._folder)
            self._folder, self.is_entered = -1, False

    def sweep(self) -> None:
        """Remove files that a killed process left half written."""
        with os.scandir(self._folder) as files:
            names = [file.name for file in files if _HALF_WRITTEN.fullmatch(file.name)]
        for name in names:
            os.unlink(name, dir_fd=self._folder)

    def numbers(self) -> list[int]:
        """Return the numbers of the stored samples, ascending.

        Files with other names are ignored.
        """
        with os.scandir(self._folder) as files:
            names = [file.name for file in files if file.is_file(follow_symlinks=False)]
        return sorted(int(name) for name in names if _NAME.fullmatch(name))

    def read_entry(self, number: int) -> Entry:
        """Return a sample without its telemetry; raises also DamagedError."""
        return sample_file.parse_entry(self._read(number))

    def read(self, number: int) -> Sample:
        """Return a sample; raises also DamagedError."""
        return sample_file.parse(number, self._read(number))

    def write(self, number: int, content: bytes) -> None:
        """Write a sample's file; it is on the disk when this returns."""
        durable.write(self._folder, _name_of(number), content, _MODE)

    def remove(self, number: int) -> None:
        """Remove a sample's file if it exists and this process has locked the folder."""
        if self.is_entered:
            with suppress(FileNotFoundError):
                os.unlink(_name_of(number), dir_fd=self._folder)

    def rename(self, number: int, to: int) -> None:
        """Give a sample another number. It is on the disk after the next `sync`."""
        os.rename(_name_of(number), _name_of(to), src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def sync(self) -> None:
        """Return once all renames and removals are on the disk."""
        os.fsync(self._folder)

    def read_ledger(self) -> Ledger:
        """Return the ledger, an empty one if there is none.

        Raises also ValueError if it is damaged.
        """
        try:
            return ledger.parse(durable.read(self._folder, _LEDGER))
        except FileNotFoundError:
            return Ledger()

    def write_ledger(self, new: Ledger) -> None:
        """Replace the ledger; it is on the disk when this returns."""
        durable.write(self._folder, _LEDGER, ledger.encode(new), _MODE)

    def remove_ledger(self) -> None:
        """Remove the ledger, after all samples that were removed before."""
        self.sync()
        with suppress(FileNotFoundError):
            os.unlink(_LEDGER, dir_fd=self._folder)
        self.sync()

    def free_bytes(self) -> int | None:
        """Return the free disk space for this user, without quotas.

        None if the file system does not report it.
        """
        found = os.statvfs(self._folder)
        blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
        return blocks * found.f_frsize if found.f_blocks else None

    def _read(self, number: int) -> bytes:
        with os.fdopen(durable.open_file(self._folder, _name_of(number)), "rb") as file:
            if os.fstat(file.fileno()).st_size > sample_file.MAX_FILE_BYTES:
                raise DamagedError("too long for a sample")
            return file.read()
