"""Who this node is, and which numbers its next message takes.

May live here: the state folder's `agent_id.txt` and `counters.json`, and the lock over both. Not here: the cached ring
(kattila_keys.ring_file), which a reset keeps.

Every call reads the files afresh under the lock, so that threads and processes (`-dump` beside the daemon) see each
other's changes. The counters name the id that they belong to: a new id starts with tick 1 by replacing one file.
Samples are numbered on under it, so that those which wait on disk (spool) keep their numbers.
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

_ID_FILE = "agent_id.txt"
_COUNTERS_FILE = "counters.json"
_LOCK_FILE = "identity.lock"
# Neither is secret; only the folder's owner can replace them.
_MODE = 0o644
# Always the same, so that new counters fit where the old ones are.
_COUNTERS_BYTES = 128

_log = logging.getLogger("kattila.agent")


class StateError(Exception):
    """The state folder cannot be used, or holds what the agent did not write; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The id, and the last sample and the last tick that were taken under it (0: none yet)."""

    agent_id: str
    sample: int = 0
    tick: int = 0


class Identity:
    """The identity in one state folder. Safe for several threads and processes."""

    def __init__(self, folder: Path, new_id: Callable[[], str]) -> None:
        """Take a folder that exists, and how a new id is drawn. Touches nothing yet."""
        self._folder = folder
        self._new_id = new_id

    def agent_id(self) -> str:
        """Return the id, made on the first call in a new folder; raises StateError."""
        with self._locked():
            return self._read_id()

    def take(self) -> Numbers:
        """Take the next sample and the next tick; they are on disk before this returns, and never given again.

        Raises:
            StateError: the folder is not writable or full, or the numbers are used up.
        """
        return self._take(samples=1)

    def take_tick(self) -> Numbers:
        """Take the next tick, for a sample that has its number; otherwise as `take`."""
        return self._take(samples=0)

    def last(self) -> Numbers:
        """Return what was taken last; raises StateError."""
        with self._locked():
            return self._read()

    def raise_above(self, agent_id: str, tick: int, sample: int) -> None:
        """Go on above the numbers that the manager knows of this id; does nothing if the id is another by now.

        Raises:
            StateError: see `take`.
        """
        with self._locked():
            last = self._read()
            raised = Numbers(last.agent_id, max(last.sample, sample), max(last.tick, tick))
            if last.agent_id == agent_id and raised != last:
                self._write_counters(raised)

    def replace(self, old_id: str, issued_id: str | None = None) -> str:
        """End `old_id` and return the id from now on: `issued_id`, else a new one.

        Of two that replace the same id, by a reset and by the manager, one wins and the other gets its result.

        Raises:
            StateError: see `take`.
        """
        with self._locked():
            current = self._read_id()
            if current != old_id:
                return current
            fresh = issued_id or self._new_id()
            self._write(_ID_FILE, f"{fresh}\n")
            return fresh

    def _take(self, *, samples: int) -> Numbers:
        with self._locked():
            last = self._read()
            taken = Numbers(last.agent_id, last.sample + samples, last.tick + 1)
            if max(taken.sample, taken.tick) > MAX_COUNTER:
                raise StateError(f"the numbers of {taken.agent_id} are used up: reset this agent, for a new id")
            self._write_counters(taken)
            return taken

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with durable.locked(self._folder / _LOCK_FILE, _MODE):
                yield
        except OSError as error:
            raise StateError(
                f"cannot use the state folder {self._folder} ({error.strerror}): it must exist, have space, and belong "
                f"to the user that runs this (uid {os.geteuid()}); STATE_DIR sets another one"
            ) from error

    def _read(self) -> Numbers:
        agent_id = self._read_id()
        path = self._folder / _COUNTERS_FILE
        try:
            numbers = _parse_counters(path.read_bytes())
        except FileNotFoundError:
            return Numbers(agent_id)
        except (ValueError, RecursionError) as error:
            _log.warning(
                "%s is damaged (%s): counting from 0 again, until the manager tells the numbers it knows", path, error
            )
            return Numbers(agent_id)
        return numbers if numbers.agent_id == agent_id else Numbers(agent_id, numbers.sample)

    def _read_id(self) -> str:
        path = self._folder / _ID_FILE
        try:
            text = path.read_bytes().decode("utf-8", "backslashreplace").strip().lower()
        except FileNotFoundError:
            text = self._new_id()
            self._write(_ID_FILE, f"{text}\n")
        if not is_id(text):
            raise StateError(
                f"{path} holds {text[:40]!r}, which is no UUID: put this node's id back there, or remove the file so "
                "that a new id is made"
            )
        return text

    def _write_counters(self, numbers: Numbers) -> None:
        members = {"agent_id": numbers.agent_id, "sample": numbers.sample, "tick": numbers.tick}
        text = json.dumps(members).ljust(_COUNTERS_BYTES - 1) + "\n"
        try:
            self._write(_COUNTERS_FILE, text)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            _overwrite(self._folder / _COUNTERS_FILE, text)

    def _write(self, name: str, text: str) -> None:
        durable.write(self._folder / name, text.encode(), _MODE)


def _overwrite(path: Path, text: str) -> None:
    """Write into the bytes that a file has already, which a full disk allows.

    A power cut in the middle may damage it, which is found and healed (see `_read`).
    """
    with path.open("r+b", buffering=0) as file:
        file.write(text.encode())
        os.fsync(file.fileno())


def _parse_counters(text: bytes) -> Numbers:
    members = json.loads(text)
    if not isinstance(members, dict):
        raise ValueError("not an object")
    try:
        return Numbers(
            agent_id=checked_id(members.get("agent_id"), "agent_id"),
            sample=checked_counter(members.get("sample"), "sample"),
            tick=checked_counter(members.get("tick"), "tick"),
        )
    except Malformed as error:
        raise ValueError(error.detail) from error
