"""The files of one spool: a sample in each file with a number as its name, and `ledger.json`.

Only the owner may read telemetry: the folder has mode 0700 and its files 0600. They all belong to the owner of the
parent folder, even if root ran the agent once.
"""

from __future__ import annotations

import os
import re
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
        self._lock = -1

    def enter(self) -> bool:
        """Create the folder if necessary, and lock it against others until `leave`.

        Returns whether the folder must be read: False if it is still the one of the last call.

        Raises:
            SpoolInUseError: another process has locked it.
        """
        if self.is_entered:
            try:
                if os.path.samestat(os.fstat(self._lock), self.path.stat()):
                    return False
            except FileNotFoundError:
                pass
            self.leave()
        durable.make_folder(self.path, _FOLDER_MODE)
        # The folder is its own lock file, so that it can be locked even on a full or read-only disk.
        lock = durable.lock(self.path, _FOLDER_MODE, wait=False)
        if lock is None:
            raise SpoolInUseError(
                f"another agent uses {self.path}: two on one machine need a STATE_DIR each, as they are two nodes"
            )
        self._lock, self.is_entered = lock, True
        return True

    def leave(self) -> None:
        """Let another process use the folder."""
        if self.is_entered:
            os.close(self._lock)
            self.is_entered = False

    def sweep(self) -> None:
        """Remove files that a killed process left half written."""
        for path in self.path.iterdir():
            if _HALF_WRITTEN.fullmatch(path.name):
                path.unlink()

    def numbers(self) -> list[int]:
        """Return the numbers of the stored samples, ascending.

        Files with other names are ignored.
        """
        with os.scandir(self.path) as files:
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
        durable.write(self._path_of(number), content, _MODE)

    def remove(self, number: int) -> None:
        """Remove a sample's file if it exists and this process has locked the folder."""
        if self.is_entered:
            self._path_of(number).unlink(missing_ok=True)

    def rename(self, number: int, to: int) -> None:
        """Give a sample another number. It is on the disk after the next `sync`."""
        self._path_of(number).rename(self._path_of(to))

    def sync(self) -> None:
        """Return once all renames and removals are on the disk."""
        durable.sync_folder(self.path)

    def read_ledger(self) -> Ledger:
        """Return the ledger, an empty one if there is none.

        Raises also ValueError if it is damaged.
        """
        try:
            return ledger.parse((self.path / _LEDGER).read_bytes())
        except FileNotFoundError:
            return Ledger()

    def write_ledger(self, new: Ledger) -> None:
        """Replace the ledger; it is on the disk when this returns."""
        durable.write(self.path / _LEDGER, ledger.encode(new), _MODE)

    def remove_ledger(self) -> None:
        """Remove the ledger, after all samples that were removed before."""
        self.sync()
        (self.path / _LEDGER).unlink(missing_ok=True)
        self.sync()

    def free_bytes(self) -> int | None:
        """Return the free disk space for this user, without quotas.

        None if the file system does not report it.
        """
        found = os.statvfs(self.path)
        blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
        return blocks * found.f_frsize if found.f_blocks else None

    def _path_of(self, number: int) -> Path:
        return self.path / f"{number:016d}"

    def _read(self, number: int) -> bytes:
        with self._path_of(number).open("rb") as file:
            if os.fstat(file.fileno()).st_size > sample_file.MAX_FILE_BYTES:
                raise DamagedError("too long for a sample")
            return file.read()
