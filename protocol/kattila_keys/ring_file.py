"""Keeps the key ring in one JSON file, readable by its owner only and shared by all processes of a service.

Two lock files are next to `ring.json`: `ring.json.lock` (held for milliseconds while the file changes) and
`ring.json.asking` (held by the process that queries DNS). A damaged file is renamed to `ring.json.damaged-<mtime>`.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kattila_keys import durable
from kattila_protocol import canonical
from kattila_protocol.ring import RING_SIZE, Ring, RingEntry, Standing
from kattila_protocol.signing import Key

FORMAT_VERSION = 1
_MODE = 0o600

_log = logging.getLogger("kattila.keys")

# Inode, mtime, size and mode: differ between any two versions of the file, and when somebody widens its mode.
_Stamp = tuple[int, int, int, int]


class RingFileError(Exception):
    """The file cannot be read or written. The text names it and a remedy, and never holds a PSK."""


class RingFileDamagedError(RingFileError):
    """The file can be read but holds no ring. The next `update` moves it aside and writes a new one."""


@dataclass(frozen=True, slots=True)
class StoredRing:
    """The content of the file: the ring and the times of the last DNS queries.

    `asked_at` (ms UTC) is when any process last began to query DNS, None for never. `answered_at` is the `asked_at` of
    the last query that returned a usable PSK. The two are equal unless DNS fails or a query is in progress. `urgent_at`
    is when a process last queried DNS early, for a known sender with an unknown key. `current_since` is when the
    current key became the current one. `candidates` are the fingerprints of several records that could be the PSK, if
    the last answer was ambiguous, and `ambiguous_since` is since when. `needs_prefix` says that a record with the
    prefix `kattila=` was seen, so that a record without it can name no new key.
    """

    ring: Ring = field(default_factory=Ring)
    asked_at: int | None = None
    answered_at: int | None = None
    urgent_at: int | None = None
    current_since: int | None = None
    candidates: tuple[str, ...] = ()
    ambiguous_since: int | None = None
    needs_prefix: bool = False


class RingFile:
    """The file with the ring, mode 0600 from its first byte. Safe for several threads and processes."""

    def __init__(self, path: Path) -> None:
        """Take the path of the file, whose folder must exist. Touches nothing yet."""
        self._path = path
        self._cached: tuple[_Stamp | None, StoredRing] = (None, StoredRing())

    @property
    def last_read(self) -> StoredRing:
        """What this object last read or wrote, even if the file is gone or damaged since."""
        return self._cached[1]

    def read(self) -> StoredRing:
        """Return the content of the file, or an empty `StoredRing` if it is missing.

        Costs one stat while the file does not change. Narrows a mode wider than 0600, with a warning.

        Raises:
            RingFileDamagedError: the file is not a complete ring of this version.
            RingFileError: the file cannot be opened.
        """
        stamp, stored = self._cached
        try:
            if _stamp(self._path.lstat()) == stamp:
                return stored
            with durable.folder(self._path.parent) as folder:
                stamp, stored = self._load(folder)
        except FileNotFoundError:
            stamp, stored = None, StoredRing()
        except OSError as error:
            raise _unusable("read", self._path, error) from None
        self._cached = stamp, stored
        return stored

    def update(self, change: Callable[[StoredRing], StoredRing]) -> StoredRing:
        """Replace the content of the file by `change` of it, under the lock, and return the new content.

        Blocks for the lock and two fsyncs, unless `change` returns an equal value. A killed writer leaves the old file
        or the new one. A damaged file is moved aside, and `change` gets what this object read last.

        Raises:
            RingFileError: the folder is missing, full or not writable.
        """
        try:
            with durable.folder(self._path.parent) as folder, durable.locked(folder, self._beside("lock"), _MODE):
                before = self._read_or_set_aside(folder)
                after = change(before)
                if after != before:
                    self._cached = _stamp(durable.write(folder, self._path.name, _encode(after), _MODE)), after
        except OSError as error:
            raise _unusable("write", self._path, error) from None
        return after

    @contextmanager
    def query_lock(self, *, wait: bool) -> Iterator[bool]:
        """Hold the lock of the only thread that queries DNS; yields False if it is taken and `wait` is false.

        Raises:
            RingFileError: the folder is missing or not writable.
        """
        try:
            with durable.folder(self._path.parent) as folder:
                lock = durable.lock(folder, self._beside("asking"), _MODE, wait=wait)
        except OSError as error:
            raise _unusable("write", self._path, error) from None
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)

    def _beside(self, suffix: str) -> str:
        return f"{self._path.name}.{suffix}"

    def _load(self, folder: int) -> tuple[_Stamp, StoredRing]:
        with os.fdopen(durable.open_file(folder, self._path.name), "rb") as file:
            _narrow_mode(file.fileno(), self._path)
            stamp = _stamp(os.fstat(file.fileno()))
            text = file.read()
        try:
            return stamp, _parse(text)
        except Exception as error:
            # Not chained, and without the parser's text: both may quote the file, which holds the PSK.
            raise RingFileDamagedError(
                f"{self._path} is damaged ({type(error).__name__}) and will be rebuilt from the next DNS answer: "
                "restore a copy if messages under older PSKs must still verify"
            ) from None

    def _read_or_set_aside(self, folder: int) -> StoredRing:
        # Bypasses the cache: another process may have written in the same moment.
        try:
            return self._load(folder)[1]
        except FileNotFoundError:
            return StoredRing()
        except RingFileDamagedError:
            name = self._path.name
            aside = self._beside(f"damaged-{os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime_ns}")
            os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
            _log.warning("%s was damaged: moved to %s and rebuilt", self._path, aside)
            return self._cached[1]


def _parse(text: bytes) -> StoredRing:
    members = canonical.parse_object(text)
    if members["version"] != FORMAT_VERSION or len(members["entries"]) > RING_SIZE:
        raise ValueError("another version")
    # Files of earlier versions lack this member and those that are read with `get`.
    on_trial = members.get("on_trial")
    entries = tuple(_parse_entry(entry) for entry in ([on_trial] if on_trial else []) + members["entries"])
    return StoredRing(
        Ring(entries),
        _parse_time(members["asked_at"]),
        _parse_time(members["answered_at"]),
        urgent_at=_parse_time(members.get("urgent_at")),
        current_since=_parse_time(members.get("current_since")),
        candidates=tuple(str(each) for each in members.get("candidates", ())),
        ambiguous_since=_parse_time(members.get("ambiguous_since")),
        needs_prefix=members.get("needs_prefix", False) is True,
    )


def _parse_entry(members: dict[str, Any]) -> RingEntry:
    key = Key.from_psk(bytes.fromhex(members["psk_hex"]))
    first_seen_at = _parse_time(members["first_seen_at"])
    if key.fingerprint != members["fingerprint"] or first_seen_at is None:
        raise ValueError("the PSK does not match its fingerprint")
    return RingEntry(
        key,
        first_seen_at,
        _parse_time(members["last_used_at"]),
        _parse_time(members.get("last_seen_at")),
        _parse_time(members.get("missing_since")),
        Standing(members.get("standing", Standing.FIRST)),
    )


def _parse_time(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise TypeError("a time is an integer or null")


def _encode(stored: StoredRing) -> bytes:
    entries = [_entry_members(entry) for entry in stored.ring.entries]
    members = {
        "version": FORMAT_VERSION,
        "asked_at": stored.asked_at,
        "answered_at": stored.answered_at,
        "urgent_at": stored.urgent_at,
        "current_since": stored.current_since,
        "candidates": list(stored.candidates),
        "ambiguous_since": stored.ambiguous_since,
        "needs_prefix": stored.needs_prefix,
        # Apart, because earlier versions refuse a file with more entries.
        "on_trial": entries[0] if len(entries) > RING_SIZE else None,
        "entries": entries[-RING_SIZE:],
    }
    return canonical.encode(members) + b"\n"


def _entry_members(entry: RingEntry) -> dict[str, Any]:
    return {
        "fingerprint": entry.key.fingerprint,
        "psk_hex": entry.key.psk.hex(),
        "first_seen_at": entry.first_seen_at,
        "last_used_at": entry.last_used_at,
        "last_seen_at": entry.last_seen_at,
        "missing_since": entry.missing_since,
        "standing": entry.standing,
    }


def _stamp(stat: os.stat_result) -> _Stamp:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode


def _narrow_mode(file: int, path: Path) -> None:
    mode = os.fstat(file).st_mode & 0o777
    if mode & ~_MODE == 0:
        return
    try:
        os.fchmod(file, _MODE)
        _log.warning("%s had mode %04o, which let other users read the PSK: narrowed to 0600", path, mode)
    except PermissionError:
        _log.warning("%s has mode %04o, which lets other users read the PSK: chmod it to 0600 as its owner", path, mode)


def _unusable(verb: str, path: Path, error: OSError) -> RingFileError:
    if error.errno == errno.ELOOP:
        return RingFileError(f"{path}, or a file beside it, is a symbolic link, which is not followed: remove the link")
    return RingFileError(
        f"cannot {verb} {path} ({error.strerror}): its folder must exist, have free space, and belong to the user "
        f"that runs this program (uid {os.geteuid()})"
    )
