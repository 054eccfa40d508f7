"""The ring on disk: one JSON file that only its owner reads, shared by every process that signs or verifies.

May live here: the file, its locks, what it looks like. Not here: how a file is written (kattila_keys.durable), when DNS
is asked (kattila_keys.refresh).

Beside `ring.json` stand `ring.json.lock` (held while the file is changed, for milliseconds), `ring.json.asking` (held
by the one process that asks DNS) and, after a damage, the damaged file as `ring.json.damaged-<mtime>`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kattila_keys import durable
from kattila_protocol import canonical
from kattila_protocol.errors import Malformed
from kattila_protocol.ring import RING_SIZE, Ring, RingEntry
from kattila_protocol.signing import Key

VERSION = 1
_MODE = 0o600

_log = logging.getLogger("kattila.keys")

# Enough of a stat to tell one written file from the next, and to notice that its mode was widened.
_Identity = tuple[int, int, int, int]


class RingFileError(Exception):
    """The file cannot be read or written; the text names it and says what to do. It never holds a PSK."""


class RingFileDamagedError(RingFileError):
    """The file can be read but holds no ring. The next `update` moves it aside and writes a new one."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the file holds.

    `asked_at` (ms UTC): when any process last began to ask DNS; None: never. `answered_at` (ms UTC): the `asked_at` of
    the last question that brought a usable PSK, so that the two are equal unless DNS fails or is being asked.
    """

    ring: Ring = field(default_factory=Ring)
    asked_at: int | None = None
    answered_at: int | None = None


class RingFile:
    """The ring in one file, mode 0600 from its first byte. Safe for several threads and processes."""

    def __init__(self, path: Path) -> None:
        """Take the path of the file, in a folder that exists. Touches nothing yet."""
        self._path = path
        self._cached: tuple[_Identity | None, Kept] = (None, Kept())

    @property
    def last_read(self) -> Kept:
        """What this object last read or wrote, whatever became of the file since."""
        return self._cached[1]

    def read(self) -> Kept:
        """Return what the file holds; an empty `Kept` while there is none. Costs a stat unless the file changed.

        A mode wider than 0600 is narrowed, with a warning.

        Raises:
            RingFileDamagedError: the file is not a whole ring of this version.
            RingFileError: the file cannot be opened.
        """
        identity, kept = self._cached
        try:
            if _identity(self._path.stat()) == identity:
                return kept
            identity, kept = self._load()
        except FileNotFoundError:
            identity, kept = None, Kept()
        except OSError as error:
            raise _unusable("read", self._path, error) from None
        self._cached = identity, kept
        return kept

    def update(self, change: Callable[[Kept], Kept]) -> Kept:
        """Replace what the file holds by `change` of it, under the lock, and return that.

        Blocks for a lock and two fsyncs, unless `change` returns an equal value. A killed writer leaves the old file or
        the new one. A damaged file is moved aside, and `change` gets what this process read last.

        Raises:
            RingFileError: the folder is missing, full or not writable.
        """
        try:
            with durable.locked(self._beside("lock"), _MODE):
                before = self._read_or_set_aside()
                after = change(before)
                if after != before:
                    self._cached = _identity(durable.write(self._path, _encode(after), _MODE)), after
        except OSError as error:
            raise _unusable("write", self._path, error) from None
        return after

    @contextmanager
    def asking(self, *, wait: bool) -> Iterator[bool]:
        """Be the only process and thread that asks DNS; yields False when another one is and `wait` is not set.

        Raises:
            RingFileError: the folder is missing or not writable.
        """
        try:
            lock = durable.lock(self._beside("asking"), _MODE, wait=wait)
        except OSError as error:
            raise _unusable("write", self._path, error) from None
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)

    def _beside(self, suffix: str) -> Path:
        return self._path.with_name(f"{self._path.name}.{suffix}")

    def _load(self) -> tuple[_Identity, Kept]:
        with self._path.open("rb") as file:
            _narrow(file.fileno(), self._path)
            identity = _identity(os.fstat(file.fileno()))
            text = file.read()
        try:
            return identity, _parse(text)
        except (Malformed, KeyError, TypeError, ValueError) as error:
            # Not chained, and no text of the parser: both may carry what was in the file.
            raise RingFileDamagedError(
                f"{self._path} is damaged ({type(error).__name__}): it will be moved aside and written anew from the "
                "next answer of DNS; restore it from a copy if messages under an older PSK must still verify"
            ) from None

    def _read_or_set_aside(self) -> Kept:
        # Not through the cache: a lost change would be worse than reading a kilobyte.
        try:
            return self._load()[1]
        except FileNotFoundError:
            return Kept()
        except RingFileDamagedError:
            aside = self._beside(f"damaged-{self._path.stat().st_mtime_ns}")
            self._path.rename(aside)
            _log.warning("%s was damaged: moved to %s, and written anew", self._path, aside.name)
            return self._cached[1]


def _parse(text: bytes) -> Kept:
    members = canonical.parse_object(text)
    if members["version"] != VERSION or len(members["entries"]) > RING_SIZE:
        raise ValueError("another version")
    entries = tuple(_entry(entry) for entry in members["entries"])
    return Kept(Ring(entries), _moment(members["asked_at"]), _moment(members["answered_at"]))


def _entry(members: dict[str, Any]) -> RingEntry:
    key = Key.from_psk(bytes.fromhex(members["psk_hex"]))
    first_seen_at = _moment(members["first_seen_at"])
    if key.fingerprint != members["fingerprint"] or first_seen_at is None:
        raise ValueError("the PSK does not fit its fingerprint")
    return RingEntry(key, first_seen_at, _moment(members["last_used_at"]))


def _moment(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise TypeError("a moment is an integer or null")


def _encode(kept: Kept) -> bytes:
    entries = [
        {
            "fingerprint": entry.key.fingerprint,
            "psk_hex": entry.key.psk.hex(),
            "first_seen_at": entry.first_seen_at,
            "last_used_at": entry.last_used_at,
        }
        for entry in kept.ring.entries
    ]
    members = {"version": VERSION, "asked_at": kept.asked_at, "answered_at": kept.answered_at, "entries": entries}
    return canonical.encode(members) + b"\n"


def _identity(stat: os.stat_result) -> _Identity:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode


def _narrow(file: int, path: Path) -> None:
    mode = os.fstat(file).st_mode & 0o777
    if mode & ~_MODE == 0:
        return
    try:
        os.fchmod(file, _MODE)
        _log.warning("%s had mode %04o, so that others could read the PSK: narrowed to 0600", path, mode)
    except PermissionError:
        _log.warning("%s has mode %04o, so that others can read the PSK: make it 0600 as its owner", path, mode)


def _unusable(verb: str, path: Path, error: OSError) -> RingFileError:
    return RingFileError(
        f"cannot {verb} {path} ({error.strerror}): its folder must exist, have space, and belong to the user that "
        f"runs this (uid {os.geteuid()})"
    )
