"""The node's id and counters, in the state folder's `agent_id.txt` and `counters.json`.

Every call reads the files again under a lock, so that threads and processes (`-dump` beside the daemon) see each
other's changes. The counters name their id, so that replacing one file gives the node a new id whose ticks start at 1.
The numbers of samples continue under a new id, because samples that wait on disk keep theirs.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kattila_keys import durable
from kattila_protocol.errors import Malformed
from kattila_protocol.names import MAX_COUNTER, checked_counter, checked_id, is_id

ID_FILE = "agent_id.txt"
_COUNTERS_FILE = "counters.json"
_LOCK_FILE = "identity.lock"
# Neither file is secret; only the folder's owner can replace them.
_MODE = 0o644
# A fixed size, so that new counters fit into the bytes of the old ones.
_COUNTERS_BYTES = 128
# No number above this is used, even if the manager reports it: the other half of the counters remains.
MAX_NUMBER = MAX_COUNTER // 2

_log = logging.getLogger("kattila.agent")


class StateError(Exception):
    """The state folder cannot be used, or one of its files is invalid.

    The text says what to do.
    """


@dataclass(frozen=True, slots=True)
class Counters:
    """The id, and the last sample and tick that were taken under it (0: none yet)."""

    agent_id: str
    sample: int = 0
    tick: int = 0


class Identity:
    """The identity in one state folder. Safe for several threads and processes."""

    def __init__(self, folder: Path, new_id: Callable[[], str]) -> None:
        """Take an existing folder and a function that returns a random id.

        Touches nothing yet.
        """
        self._folder = folder
        self._new_id = new_id

    def agent_id(self) -> str:
        """Return the id, which the first call in a new folder creates; raises StateError."""
        with self._locked() as folder:
            return self._read_id(folder)

    def take(self, *, samples: int = 1) -> Counters:
        """Take the next tick, and the next sample unless `samples` is 0.

        It is 0 for another message about a sample that has its number already. The counters are on disk before this
        returns, so that no number is given twice.

        Raises:
            StateError: the folder is not writable or full.
        """
        with self._locked() as folder:
            last = self._read(folder)
            taken = Counters(last.agent_id, last.sample + samples, last.tick + 1)
            _write_counters(folder, taken)
            return taken

    def last(self) -> Counters:
        """Return the last counters that were taken; raises StateError."""
        with self._locked() as folder:
            return self._read(folder)

    def raise_above(self, agent_id: str, tick: int, sample: int) -> None:
        """Continue above the numbers that the manager has seen of this id, unless they are above MAX_NUMBER.

        Does nothing if the id has changed.

        Raises:
            StateError: see `take`.
        """
        with self._locked() as folder:
            last = self._read(folder)
            sample, tick = (number if number <= MAX_NUMBER else 0 for number in (sample, tick))
            raised = Counters(last.agent_id, max(last.sample, sample), max(last.tick, tick))
            if last.agent_id == agent_id and raised != last:
                _write_counters(folder, raised)

    def lower(self, agent_id: str, tick: int, sample: int) -> None:
        """Continue above these numbers, which are lower than the last ones: the manager refused those as too high.

        Does nothing if the id has changed.

        Raises:
            StateError: see `take`.
        """
        with self._locked() as folder:
            if self._read_id(folder) == agent_id:
                _write_counters(folder, Counters(agent_id, sample, tick))

    def replace(self, old_id: str, issued_id: str | None = None) -> str:
        """Replace `old_id` by `issued_id`, or by a random one, and return the new id.

        If a reset and the manager replace the same id at once, the first one wins, and the second gets its result.

        Raises:
            StateError: see `take`.
        """
        with self._locked() as folder:
            current = self._read_id(folder)
            if current != old_id:
                return current
            fresh = issued_id or self._new_id()
            _write_id(folder, fresh)
            return fresh

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the lock and yield the descriptor of the folder."""
        try:
            with durable.folder(self._folder) as folder, durable.locked(folder, _LOCK_FILE, _MODE):
                yield folder
        except OSError as error:
            raise StateError(
                f"cannot use the state folder {self._folder} ({error.strerror}): it must exist, have space, and belong "
                f"to the user that runs this (uid {os.geteuid()}); STATE_DIR sets another one"
            ) from error

    def _read(self, folder: int) -> Counters:
        agent_id = self._read_id(folder)
        path = self._folder / _COUNTERS_FILE
        try:
            members = json.loads(durable.read(folder, _COUNTERS_FILE))
            counters = Counters(
                agent_id=checked_id(members["agent_id"], "agent_id"),
                sample=_usable(checked_counter(members["sample"], "sample"), path),
                tick=_usable(checked_counter(members["tick"], "tick"), path),
            )
        except FileNotFoundError:
            return Counters(agent_id)
        except (ValueError, TypeError, KeyError, RecursionError, Malformed) as error:
            _log.warning(
                "%s is damaged (%s): counting from 0 again, until the manager reports the highest numbers", path, error
            )
            return Counters(agent_id)
        return counters if counters.agent_id == agent_id else Counters(agent_id, counters.sample)

    def _read_id(self, folder: int) -> str:
        try:
            text = durable.read(folder, ID_FILE).decode("utf-8", "backslashreplace").strip().lower()
        except FileNotFoundError:
            text = self._new_id()
            _write_id(folder, text)
        if not is_id(text):
            raise StateError(
                f"{self._folder / ID_FILE} contains {text[:40]!r}, which is not a UUID: restore this node's id, or "
                "remove the file for a new id"
            )
        return text


def _write_id(folder: int, agent_id: str) -> None:
    durable.write(folder, ID_FILE, f"{agent_id}\n".encode(), _MODE)


def _usable(number: int, path: Path) -> int:
    if number <= MAX_NUMBER:
        return number
    _log.warning(
        "%s: the number %d is unusable: counting from 0 again, until the manager reports the highest", path, number
    )
    return 0


def _write_counters(folder: int, numbers: Counters) -> None:
    members = {"agent_id": numbers.agent_id, "sample": numbers.sample, "tick": numbers.tick}
    text = json.dumps(members).ljust(_COUNTERS_BYTES - 1) + "\n"
    try:
        durable.write(folder, _COUNTERS_FILE, text.encode(), _MODE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _overwrite(folder, _COUNTERS_FILE, text)


def _overwrite(folder: int, name: str, text: str) -> None:
    """Overwrite a file in place, which is possible on a full disk.

    A power cut meanwhile may damage the file; `_read` detects that and starts again.
    """
    with os.fdopen(durable.open_file(folder, name, os.O_RDWR), "r+b", buffering=0) as file:
        file.write(text.encode())
        os.fsync(file.fileno())
