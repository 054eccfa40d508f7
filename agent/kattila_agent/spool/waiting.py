"""The waiting samples as the agent uses them: put, read, settled, renumbered and dropped."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from kattila_agent.spool import dropping, sample_file
from kattila_agent.spool.dropping import Entry
from kattila_agent.spool.folder import Folder, SpoolInUseError
from kattila_agent.spool.ledger import Ledger, Renumbering
from kattila_agent.spool.sample import Moment, Sample
from kattila_agent.spool.sample_file import DamagedError
from kattila_protocol.verdict import Disposition

# The spool leaves the last bytes of a disk free: to replace the ledger, the counters and the ring, the agent writes a
# new file beside the old one.
RESERVE_BYTES = 4 * dropping.BLOCK_BYTES

_FULL = (errno.ENOSPC, errno.EDQUOT)
# How often samples are dropped to make room for one. If others fill the disk, dropping all would not help.
_ROUNDS = 3

_log = logging.getLogger("kattila.agent")


@dataclass(frozen=True, slots=True)
class Waiting:
    """The waiting samples: `count`, `bytes` on disk, `highest` number (0: none).

    `dropped` samples were dropped since the folder was created or cleared. `oldest_sampled_at` is that of the lowest
    number, None if no sample waits.
    """

    count: int
    bytes: int
    dropped: int
    oldest_sampled_at: int | None
    highest: int


class Spool:
    """Samples in one folder. Safe for several threads; a second process is refused.

    Only the constructor raises errors. If the disk is full, read-only or broken, samples that cannot be stored are
    dropped and counted, and `problem` describes the last failure; it is None after a success.
    """

    def __init__(self, folder: Path, max_bytes: int, max_age_seconds: int) -> None:
        """Lock and read the folder, which is created if it is missing.

        Its parent must exist.

        Raises:
            SpoolInUseError: another process has locked it.
        """
        self._guard = threading.RLock()
        self._folder = Folder(folder)
        self._max_bytes = max_bytes
        self._max_age_ms = 1000 * max_age_seconds
        self._entries: dict[int, Entry] = {}
        # The ledger as it is on the disk, and dropped samples that could not be counted there yet.
        self._ledger = Ledger()
        self._uncounted = 0
        self.problem: str | None = None
        try:
            self._enter()
        except SpoolInUseError:
            raise
        except OSError as error:
            self.problem = self._text(error)

    def close(self) -> None:
        """Let another process use the folder; this spool must not be used afterwards."""
        with self._guard:
            self._folder.leave()

    def put(self, sample: Sample, moment: Moment) -> None:
        """Store a sample: when this returns, it is on the disk, or counted as dropped.

        Samples that are too old, or exceed the space together with this one, are dropped, the oldest first.
        """
        with self._guard:
            try:
                self._enter()
                self.expire(moment)
                problem = self._store(sample)
            except OSError as error:
                self._uncounted += 1
                problem = self._text(error)
            if self._uncounted:
                self._save(self._ledger)
            self.problem = problem

    def remove(self, number: int) -> None:
        """Remove a sample that was delivered."""
        with self._guard:
            self._entries.pop(number, None)
            try:
                self._folder.remove(number)
            except OSError as error:
                self.problem = self._text(error)

    def drop(self, number: int) -> None:
        """Drop a sample and count it."""
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
        """Return the numbers of all waiting samples, ascending."""
        with self._guard:
            return tuple(sorted(self._entries))

    def read(self, number: int) -> Sample | None:
        """Return a sample, None if it is gone or cannot be read.

        A damaged one is dropped and counted.
        """
        with self._guard:
            if number not in self._entries:
                return None
            try:
                return self._folder.read(number)
            except (DamagedError, FileNotFoundError) as error:
                _log.warning("sample %d in %s is lost: %s", number, self._folder.path, error)
                self._drop([number])
            except OSError as error:
                self.problem = self._text(error)
            return None

    def expire(self, moment: Moment) -> Waiting:
        """Drop the samples that are too old, and return those that still wait."""
        with self._guard:
            entries = self._entries.items()
            if old := [number for number, each in entries if dropping.is_too_old(each, moment, self._max_age_ms)]:
                self._drop(old)
            return self.waiting()

    def renumber(self, boot_id: str, first: int) -> dict[int, int]:
        """Give the samples of a boot new numbers in their order.

        Return the new number of each old one.

        They begin with `first`, or above all waiting samples if that is higher. This is for a state folder that was
        restored from a copy: samples measured since then have numbers that the manager has seen before. If the process
        is killed meanwhile, the next start completes the change. Number new samples above `waiting().highest`.
        """
        with self._guard:
            plan = Renumbering(boot_id, max([first, *(number + 1 for number in self._entries)]))
            if self._to_renumber(plan):
                self._save(replace(self._ledger, dropping=(), renumbering=plan))
            return self._renumber(plan)

    def lower(self, above: int, floor: int) -> dict[int, int]:
        """Give the samples with numbers above `above` lower ones, in their order; `floor` is not above it.

        Return the new number of each old one. They begin above `floor` and above all other samples. This is for numbers
        that no manager accepts. If the process is killed meanwhile, the next call completes the change.
        """
        with self._guard:
            too_high = sorted(number for number in self._entries if number > above)
            first = 1 + max([floor, *(number for number in self._entries if number <= above)])
            return self._move({number: first + place for place, number in enumerate(too_high)})

    def rename(self, number: int, to: int) -> None:
        """Give one sample another number, which no sample has; does nothing if it is gone."""
        with self._guard:
            self._move({number: to} if number in self._entries else {})

    def keep_only_boot(self, boot_id: str) -> None:
        """Drop the samples of all other boots, which another machine reports."""
        with self._guard:
            self._drop([number for number, entry in self._entries.items() if entry.boot_id != boot_id])

    def clear(self) -> None:
        """Remove all samples and reset the count."""
        with self._guard:
            numbers = set(self._entries)
            self._try(lambda: numbers.update(self._folder.numbers()))
            self._ledger, self._uncounted = Ledger(), 0
            self._save(Ledger(dropping=tuple(sorted(numbers))))
            for number in numbers:
                self.remove(number)
            if self._try(self._folder.remove_ledger):
                self._ledger = Ledger()

    def waiting(self) -> Waiting:
        """Return the number and the size of the waiting samples."""
        with self._guard:
            numbers = sorted(self._entries)
            return Waiting(
                count=len(numbers),
                bytes=sum(entry.bytes for entry in self._entries.values()),
                dropped=self._ledger.dropped + self._uncounted,
                oldest_sampled_at=self._entries[numbers[0]].sampled_at if numbers else None,
                highest=numbers[-1] if numbers else 0,
            )

    def _enter(self) -> None:
        """Lock the folder and read it, unless it is still the one that was read last."""
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
        """Return all entries, and the numbers of damaged files.

        Remove files that were dropped before.
        """
        entries, damaged = {}, []
        for number in self._folder.numbers():
            if number in self._ledger.dropping:
                self.remove(number)
                continue
            try:
                entries[number] = self._folder.read_entry(number)
            except DamagedError as error:
                damaged.append(number)
                _log.warning("sample %d in %s is lost: %s", number, self._folder.path, error)
            except OSError as error:
                self.problem = self._text(error)
        return entries, damaged

    def _store(self, sample: Sample) -> str | None:
        """Write a sample's file.

        Return the problem if older samples had to go because the disk is full.
        """
        content = sample_file.encode(sample)
        size = dropping.disk_bytes(len(content))
        if size > self._max_bytes:
            raise OSError(errno.EFBIG, "a sample alone is more than SPOOL_MAX_BYTES")
        if sample.number in self._entries:
            self._drop([sample.number])
        if sample.number in self._ledger.dropping:
            # Numbers begin again under a new id. The next start must not mistake this file for the dropped one.
            self._save(replace(self._ledger, dropping=()))
        if (excess := self.waiting().bytes + size - self._max_bytes) > 0:
            self._drop(dropping.oldest(self._entries, excess))
        is_full = self._write(sample.number, content, size)
        self._entries[sample.number] = Entry(sample.sampled_at, sample.boot_id, sample.since_boot_ms, size)
        return f"the disk of {self._folder.path} is full: the oldest samples give way to new ones" if is_full else None

    def _write(self, number: int, content: bytes, size: int) -> bool:
        """Write a file, and drop older samples if the disk is full.

        Return whether that was necessary.
        """
        free = self._folder.free_bytes()
        missing = 0 if free is None else size + RESERVE_BYTES - free
        victims = dropping.oldest(self._entries, missing) if missing > 0 else ()
        if victims:
            self._drop(victims)
        for rounds in range(_ROUNDS):
            try:
                self._folder.write(number, content)
            except OSError as error:
                more = dropping.oldest(self._entries, size)
                if error.errno not in _FULL or not more or rounds + 1 == _ROUNDS:
                    raise
                self._drop(more)
            else:
                return bool(victims) or rounds > 0
        raise AssertionError("unreachable")

    def _drop(self, numbers: Collection[int]) -> None:
        """Drop samples and count them.

        The ledger is written first, so that each of them is counted once if the process is killed meanwhile. On a full
        disk that has to wait until their files are gone.
        """
        if not numbers:
            return
        self._uncounted += len(numbers)
        self._save(replace(self._ledger, dropping=tuple(sorted(numbers))))
        for number in numbers:
            self.remove(number)
        if self._uncounted:
            self._save(replace(self._ledger, dropping=()))

    def _save(self, ledger: Ledger) -> None:
        counted = replace(ledger, dropped=ledger.dropped + self._uncounted)
        if self._folder.is_entered and self._try(lambda: self._folder.write_ledger(counted)):
            self._ledger, self._uncounted = counted, 0

    def _renumber(self, plan: Renumbering) -> dict[int, int]:
        numbers = self._to_renumber(plan)
        free = max([plan.first, *(number + 1 for number in self._entries)])
        moved = self._move({number: free + place for place, number in enumerate(numbers)})
        if self._ledger.renumbering is not None and len(moved) == len(numbers) and self._try(self._folder.sync):
            self._save(replace(self._ledger, renumbering=None))
        return moved

    def _move(self, moves: Mapping[int, int]) -> dict[int, int]:
        """Rename samples one by one, in this order; return the renamed ones, up to the first that cannot be renamed."""
        moved: dict[int, int] = {}
        if not set(self._ledger.dropping).isdisjoint(moves.values()):
            # The next start must not mistake these files for dropped ones.
            self._save(replace(self._ledger, dropping=()))
        for number, to in moves.items():
            if not self._try(partial(self._folder.rename, number, to)):
                break
            self._entries[to] = self._entries.pop(number)
            moved[number] = to
        return moved

    def _to_renumber(self, plan: Renumbering) -> list[int]:
        of_boot = (number for number, entry in self._entries.items() if entry.boot_id == plan.boot_id)
        return sorted(number for number in of_boot if number < plan.first)

    def _try(self, action: Callable[[], object]) -> bool:
        try:
            action()
        except OSError as error:
            self.problem = self._text(error)
            return False
        return True

    def _text(self, error: OSError) -> str:
        if isinstance(error, SpoolInUseError):
            return str(error)
        return (
            f"cannot store samples in {self._folder.path} ({error.strerror}): samples that do not reach the manager at "
            f"once are lost; the folder must have space and belong to the user that runs this (uid {os.geteuid()})"
        )
