"""What is kept, what has to go, and the count of that.

May live here: the spool as the agent uses it. Not here: files (folder), nor the rules by which something is too old or
too much (bounds).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from kattila_agent.spool import bounds, sample_file
from kattila_agent.spool.bounds import Entry
from kattila_agent.spool.folder import Folder, SpoolInUseError
from kattila_agent.spool.ledger import Ledger, Renumbering
from kattila_agent.spool.sample import Clock, Sample
from kattila_agent.spool.sample_file import DamagedError
from kattila_protocol.verdict import Disposition

# The spool does not take the last of a disk: the ledger, the counters and the ring are replaced by writing a new file
# beside the old one.
RESERVE_BYTES = 4 * bounds.BLOCK_BYTES

_FULL = (errno.ENOSPC, errno.EDQUOT)
# How often room is made for one sample. A disk that gives none back, since others fill it, is no reason to drop all.
_ROUNDS = 3

_log = logging.getLogger("kattila.agent")


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits: `count` samples that take `bytes` on the disk, up to the number `highest` (0: none).

    `dropped` were given up since the folder was made or cleared. `oldest_sampled_at` is of the lowest number, None if
    nothing waits.
    """

    count: int
    bytes: int
    dropped: int
    oldest_sampled_at: int | None
    highest: int


class Spool:
    """Samples in one folder. Safe for several threads; a second process is refused.

    No method but the first raises for a disk that is full, read-only or broken: what cannot be kept is dropped and
    counted, and `problem` says what was wrong at the last try, None if nothing was.
    """

    def __init__(self, folder: Path, max_bytes: int, max_age_seconds: int) -> None:
        """Read what is in the folder, which is made where it is missing; its parent has to exist.

        Raises:
            SpoolInUseError: another process has it.
        """
        self._guard = threading.Lock()
        self._folder = Folder(folder)
        self._max_bytes = max_bytes
        self._max_age_ms = 1000 * max_age_seconds
        self._entries: dict[int, Entry] = {}
        # As it is on the disk. What could not be counted there yet is kept here until it can.
        self._ledger = Ledger()
        self._uncounted = 0
        self.problem: str | None = None
        try:
            self._enter()
        except SpoolInUseError:
            raise
        except OSError as error:
            self._note(error)

    def close(self) -> None:
        """Let another process use the folder; the spool is of no use after that."""
        with self._guard:
            self._folder.leave()

    def put(self, sample: Sample, clock: Clock) -> None:
        """Keep a sample: it is on the disk when this returns, or counted as dropped.

        What is too old, or too much beside it, is dropped, the oldest first.
        """
        with self._guard:
            try:
                self._enter()
                self._drop(self._too_old(clock))
                problem = self._file(sample)
            except OSError as error:
                self._uncounted += 1
                problem = self._told(error)
            if self._uncounted:
                self._save(self._ledger)
            self.problem = problem

    def remove(self, number: int) -> None:
        """Forget a sample that was delivered."""
        with self._guard:
            self._forget(number)

    def drop(self, number: int) -> None:
        """Give a sample up and count it."""
        with self._guard:
            self._drop([number] if number in self._entries else [])

    def settle(self, number: int, disposition: Disposition) -> bool:
        """Remove a sample if the manager's verdict allows that; return whether it did."""
        match disposition:
            case Disposition.DELIVERED:
                self.remove(number)
            case Disposition.DROPPED:
                self.drop(number)
            case Disposition.KEPT:
                return False
        return True

    def numbers(self) -> tuple[int, ...]:
        """Return the numbers of all that waits, ascending."""
        with self._guard:
            return tuple(sorted(self._entries))

    def read(self, number: int) -> Sample | None:
        """Return a sample; None if it is not there, or cannot be read. A damaged one is removed and counted."""
        with self._guard:
            if number not in self._entries:
                return None
            try:
                return self._folder.read(number)
            except (DamagedError, FileNotFoundError) as error:
                _log.warning("sample %d in %s is lost: %s", number, self._folder.path, error)
                self._drop([number])
            except OSError as error:
                self._note(error)
            return None

    def expire(self, clock: Clock) -> int:
        """Drop what is too old, and return how many."""
        with self._guard:
            too_old = self._too_old(clock)
            self._drop(too_old)
            return len(too_old)

    def renumber(self, boot_id: str, first: int) -> dict[int, int]:
        """Give the samples of a boot new numbers in their order; return the new number of each old one.

        They begin with `first`, or above all that waits if that is more. For a state folder that was restored: what the
        node has measured since has numbers that the manager knows from before. Killed at any point, it is completed by
        the next start. Whoever counts samples has to continue above `waiting().highest`.
        """
        with self._guard:
            plan = Renumbering(boot_id, max([first, *(number + 1 for number in self._entries)]))
            if self._to_renumber(plan):
                self._save(replace(self._ledger, dropping=(), renumbering=plan))
            return self._renumber(plan)

    def keep_only_boot(self, boot_id: str) -> None:
        """Drop what was measured in any other boot: of a cloned disk that is the other machine's to tell."""
        with self._guard:
            self._drop([number for number, entry in self._entries.items() if entry.boot_id != boot_id])

    def clear(self) -> None:
        """Forget all samples and the count."""
        with self._guard:
            there = set(self._entries)
            self._try(lambda: there.update(self._folder.numbers()))
            self._ledger, self._uncounted = Ledger(), 0
            self._save(Ledger(dropping=tuple(sorted(there))))
            for number in there:
                self._forget(number)
            if self._try(self._folder.remove_ledger):
                self._ledger = Ledger()

    def waiting(self) -> Waiting:
        """Return how much waits."""
        with self._guard:
            numbers = sorted(self._entries)
            return Waiting(
                count=len(numbers),
                bytes=self._bytes(),
                dropped=self._ledger.dropped + self._uncounted,
                oldest_sampled_at=self._entries[numbers[0]].sampled_at if numbers else None,
                highest=numbers[-1] if numbers else 0,
            )

    def _enter(self) -> None:
        """Have the folder and know what is in it, also where it was replaced since."""
        if not self._folder.enter():
            return
        try:
            self._load()
        except OSError:
            self._folder.leave()
            raise

    def _load(self) -> None:
        before = set(self._entries)
        self._ledger = self._read_ledger()
        self._try(self._folder.sweep)
        self._entries, damaged = self._read_all()
        self._uncounted += len(before - self._entries.keys() - set(damaged))
        if self._ledger.renumbering is not None:
            self._renumber(self._ledger.renumbering)
        self._drop(damaged)

    def _read_ledger(self) -> Ledger:
        try:
            return self._folder.read_ledger()
        except (ValueError, OSError) as error:
            _log.warning("the ledger in %s is lost (%s): dropped samples are counted from 0", self._folder.path, error)
            return Ledger()

    def _read_all(self) -> tuple[dict[int, Entry], list[int]]:
        """Return the entries of all samples, and the numbers of damaged files; what was dropped before is removed."""
        entries, damaged = {}, []
        for number in self._folder.numbers():
            if number in self._ledger.dropping:
                self._forget(number)
                continue
            try:
                entries[number] = self._folder.look_at(number)
            except DamagedError as error:
                damaged.append(number)
                _log.warning("sample %d in %s is lost: %s", number, self._folder.path, error)
            except OSError as error:
                self._note(error)
        return entries, damaged

    def _file(self, sample: Sample) -> str | None:
        """Write a sample down and return what is wrong nevertheless."""
        content = sample_file.encode(sample)
        entry = sample_file.entry_of(content)
        if entry.bytes > self._max_bytes:
            raise OSError(errno.EFBIG, "a sample alone is more than SPOOL_MAX_BYTES")
        self._clear_the_way(sample.number)
        self._drop(bounds.oldest(self._entries, self._bytes() + entry.bytes - self._max_bytes))
        was_full = self._make_room(entry.bytes)
        was_full |= self._write(sample.number, content, entry.bytes)
        self._entries[sample.number] = entry
        return f"the disk of {self._folder.path} is full: the oldest samples give way to new ones" if was_full else None

    def _clear_the_way(self, number: int) -> None:
        if number in self._entries:
            self._drop([number])
        if number in self._ledger.dropping:
            # Under a new id numbers begin anew. A later start must not take this one for what was dropped.
            self._save(replace(self._ledger, dropping=()))

    def _make_room(self, size: int) -> bool:
        """Drop what has to go so that `size` bytes leave the reserve free; tell whether that was anything."""
        free = self._folder.free_bytes()
        victims = () if free is None else bounds.oldest(self._entries, size + RESERVE_BYTES - free)
        self._drop(victims)
        return bool(victims)

    def _write(self, number: int, content: bytes, size: int) -> bool:
        """Write a file, if need be in the place of older ones; tell whether that was so."""
        for rounds in range(_ROUNDS):
            try:
                self._folder.write(number, content)
            except OSError as error:
                victims = bounds.oldest(self._entries, size)
                if error.errno not in _FULL or not victims or rounds + 1 == _ROUNDS:
                    raise
                self._drop(victims)
            else:
                return rounds > 0
        raise AssertionError("unreachable")

    def _drop(self, numbers: Collection[int]) -> None:
        """Give samples up.

        First that is written down, so that a kill at any point counts each of them once. On a full disk that has to
        wait until their files are gone.
        """
        if not numbers:
            return
        self._uncounted += len(numbers)
        self._save(replace(self._ledger, dropping=tuple(sorted(numbers))))
        for number in numbers:
            self._forget(number)
        if self._uncounted:
            self._save(replace(self._ledger, dropping=()))

    def _forget(self, number: int) -> None:
        self._entries.pop(number, None)
        if self._folder.is_entered:
            self._try(lambda: self._folder.remove(number))

    def _save(self, ledger: Ledger) -> None:
        counted = replace(ledger, dropped=ledger.dropped + self._uncounted)
        if self._folder.is_entered and self._try(lambda: self._folder.write_ledger(counted)):
            self._ledger, self._uncounted = counted, 0

    def _renumber(self, plan: Renumbering) -> dict[int, int]:
        renumbered: dict[int, int] = {}
        free = max([plan.first, *(number + 1 for number in self._entries)])
        try:
            for number in self._to_renumber(plan):
                self._folder.rename(number, free)
                self._entries[free] = self._entries.pop(number)
                renumbered[number] = free
                free += 1
            if self._ledger.renumbering is not None:
                self._folder.sync()
                self._save(replace(self._ledger, renumbering=None))
        except OSError as error:
            self._note(error)
        return renumbered

    def _to_renumber(self, plan: Renumbering) -> list[int]:
        of_boot = (number for number, entry in self._entries.items() if entry.boot_id == plan.boot_id)
        return sorted(number for number in of_boot if number < plan.first)

    def _too_old(self, clock: Clock) -> list[int]:
        entries = self._entries.items()
        return [number for number, entry in entries if bounds.is_too_old(entry, clock, self._max_age_ms)]

    def _bytes(self) -> int:
        return sum(entry.bytes for entry in self._entries.values())

    def _try(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except OSError as error:
            self._note(error)
            return False
        return True

    def _note(self, error: OSError) -> None:
        self.problem = self._told(error)

    def _told(self, error: OSError) -> str:
        if isinstance(error, SpoolInUseError):
            return str(error)
        return (
            f"cannot keep samples in {self._folder.path} ({error.strerror}): what does not reach the manager at once "
            f"is lost; the folder must have space and belong to the user that runs this (uid {os.geteuid()})"
        )
