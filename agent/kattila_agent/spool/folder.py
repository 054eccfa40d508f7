"""The spool's files: `NNNNNNNNNNNNNNNN` for each sample, and `ledger.json`.

May live here: the folder, who may use it, and reading and writing what is in it. Not here: what is kept and what has to
go (spool), nor what stands in a file (sample_file, ledger).

Telemetry is nobody else's business: the folder has mode 0700 and its files 0600. All belongs to the owner of the folder
above, also when root has run the agent once.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from kattila_agent.spool import ledger, sample_file
from kattila_agent.spool.bounds import Entry
from kattila_agent.spool.ledger import Ledger
from kattila_agent.spool.sample import Sample
from kattila_agent.spool.sample_file import DamagedError
from kattila_keys import durable

_FOLDER_MODE = 0o700
_MODE = 0o600
_LEDGER = "ledger.json"
_HALF_WRITTEN = re.compile(r"(?:[0-9]{16}|ledger\.json)\.new")


class SpoolInUseError(OSError):
    """Another process uses the folder; the text says so, and what to do."""


class Folder:
    """The folder of one spool. For one thread at a time.

    Where nothing else is said, methods raise OSError: the folder is missing, full, not ours, or the disk is broken.
    """

    def __init__(self, path: Path) -> None:
        """Take a path whose parent exists. Touches nothing yet."""
        self.path = path
        self._lock: int | None = None

    @property
    def is_entered(self) -> bool:
        """Whether this process is the one that may change the files."""
        return self._lock is not None

    def enter(self) -> bool:
        """Make the folder where it is missing, and be the only process that uses it until `leave`.

        Returns whether there is something to look at: False if nothing has changed since the last call.

        Raises:
            SpoolInUseError: another process is that already.
        """
        if self._lock is not None:
            if self._is_still_there(self._lock):
                return False
            self.leave()
        durable.make_folder(self.path, _FOLDER_MODE)
        # The folder is its own lock file: that can be had on a disk that is full or read-only, too.
        self._lock = durable.lock(self.path, _FOLDER_MODE, wait=False)
        if self._lock is None:
            raise SpoolInUseError(
                f"another agent uses {self.path}: two on one machine need a STATE_DIR each, as they are two nodes"
            )
        return True

    def leave(self) -> None:
        """Let another process use the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def sweep(self) -> None:
        """Remove what a killed writer left half written."""
        for path in self.path.iterdir():
            if _HALF_WRITTEN.fullmatch(path.name):
                path.unlink()

    def numbers(self) -> list[int]:
        """Return the numbers of the samples that are there, ascending. What else lies there is not ours."""
        with os.scandir(self.path) as found:
            numbers = [sample_file.number_of(one.name) for one in found if one.is_file(follow_symlinks=False)]
        return sorted(number for number in numbers if number is not None)

    def look_at(self, number: int) -> Entry:
        """Return what is remembered of a sample while it waits; raises also DamagedError."""
        return sample_file.entry_of(self._read(number))

    def read(self, number: int) -> Sample:
        """Return a sample; raises also DamagedError."""
        return sample_file.parse(number, self._read(number))

    def write(self, number: int, content: bytes) -> None:
        """Write a sample's file; it is on the disk when this returns."""
        durable.write(self._path_of(number), content, _MODE)

    def remove(self, number: int) -> None:
        """Remove a sample's file, if it is there."""
        self._path_of(number).unlink(missing_ok=True)

    def rename(self, number: int, to: int) -> None:
        """Give a sample another number. It is on the disk after the next `sync`."""
        self._path_of(number).rename(self._path_of(to))

    def sync(self) -> None:
        """Return when all that was renamed or removed is so on the disk."""
        durable.sync_folder(self.path)

    def read_ledger(self) -> Ledger:
        """Return the ledger, an empty one if there is none; raises also ValueError if it is damaged."""
        try:
            return ledger.parse((self.path / _LEDGER).read_bytes())
        except FileNotFoundError:
            return Ledger()

    def write_ledger(self, written: Ledger) -> None:
        """Replace the ledger; it is on the disk when this returns."""
        durable.write(self.path / _LEDGER, ledger.encode(written), _MODE)

    def remove_ledger(self) -> None:
        """Remove the ledger, after all else that was removed."""
        self.sync()
        (self.path / _LEDGER).unlink(missing_ok=True)
        self.sync()

    def free_bytes(self) -> int | None:
        """Return what the disk has left for this user, None where it does not tell. Quotas are not in it."""
        found = os.statvfs(self.path)
        blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
        return blocks * found.f_frsize if found.f_blocks else None

    def _path_of(self, number: int) -> Path:
        return self.path / sample_file.name_of(number)

    def _is_still_there(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.fstat(lock), self.path.stat())
        except FileNotFoundError:
            return False

    def _read(self, number: int) -> bytes:
        with self._path_of(number).open("rb") as file:
            if os.fstat(file.fileno()).st_size > sample_file.MAX_FILE_BYTES:
                raise DamagedError("too long for a sample")
            return file.read()
