"""All that was measured, sent and stored, and what must hold of it at every message.

Who keeps the book sees what no machine sees: each measurement bears a label of its own, and each moment is true.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kattila_agent.outbound.delivery import RELAY, UPDATES
from kattila_protocol import envelope
from kattila_protocol.envelope import Envelope
from kattila_protocol.errors import Refusal
from support.world.wsgi import Answer

_HEAD = re.compile(rb'\{"agent_id":"([^"]+)","sample":(\d+),"tick":(\d+),')
# The members before the telemetry have less.
_HEAD_BYTES = 400
_MOST_HOPS = 3
_LABEL = re.compile(rb'"measurement":"([^"]+)"')
# The manager calls late what was signed more than a minute after it was measured; either clock may be a second off.
_LATE_SECONDS = 60
_EXACT_SECONDS = 2


@dataclass(frozen=True)
class Measured:
    """When a measurement was made, truly (seconds), and in which boot."""

    at: float
    boot_id: str


@dataclass(frozen=True)
class Stored:
    """Where the manager has a measurement, and whether it has to be marked late (None: who can tell)."""

    agent_id: str
    sample: int
    late: bool | None


class Book:
    """What was measured and what the manager said of it; methods assert what must hold."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.measured: dict[str, Measured] = {}
        # MACs of reports to which somebody on the way gave the answer on another.
        self.tampered: set[str] = set()
        self.sent: set[str] = set()
        self.stored: dict[str, Stored] = {}
        self.is_replay = False
        # What may bear the number of another measurement that the manager has already, as a disk was set back or
        # copied (see docs/PROTOCOL.md, Delivery). What was lost that way is `excused`.
        self.may_be_numbered_twice: set[str] = set()
        self.excused: set[str] = set()
        self._places: dict[tuple[str, int], str] = {}
        self._highest: dict[str, int] = {}
        # (MAC, who sends it on) of all requests that are under way inside of each other.
        self._under_way: list[tuple[str, str]] = []

    def label_at(self, agent_id: str, sample: int) -> str:
        """Return which measurement the manager has under this number."""
        return self._places[agent_id, sample]

    @contextmanager
    def sending(self, path: str, body: bytes) -> Iterator[None]:
        """Look at a request before it leaves, and know of it while it is under way."""
        if path not in (UPDATES, RELAY):
            yield
            return
        parts = envelope.parse(body)
        origin, label = _origin(parts), label_of(parts.data)
        self.sent.add(label)
        sender = parts.relay_path[-1] if parts.relay_path else origin
        self._check_hop(parts, sender, origin)
        self._under_way.append((parts.mac, sender))
        try:
            yield
        finally:
            self._under_way.pop()

    def _check_hop(self, parts: Envelope, sender: str, origin: str) -> None:
        path = parts.relay_path
        assert len(path) <= _MOST_HOPS, f"{len(path)} hops"
        assert len(set(path)) == len(path), "one relay stands twice in the path"
        assert (parts.mac, sender) not in self._under_way, f"{sender} passes on what it passed on already: a loop"
        # Somebody may send an old report again, through others; only a manager knows then whose it is.
        assert self.is_replay or origin not in path, f"{origin} relays its own report"

    def tamper(self, path: str, body: bytes) -> None:
        """Note that the answer to a request is replaced."""
        if path in (UPDATES, RELAY):
            self.tampered.add(envelope.parse(body).mac)

    def handed_back(self, body: bytes, answer: Answer) -> None:
        """Look at what a relay answers: a verdict on this report, or none, unless somebody put another into its way."""
        nonce = None if envelope.parse(body).mac in self.tampered else verdict_of(answer).get("nonce")
        assert nonce is None or f'"nonce":"{nonce}"'.encode() in body, "a relay hands out the verdict on another report"

    def answered(self, body: bytes, answer: Answer) -> None:
        """Take note of what the manager says of a report."""
        try:
            parts = envelope.parse(body)
        except Refusal:
            return
        label = label_of(parts.data)
        outcome = verdict_of(answer).get("outcome")
        if outcome == "accepted":
            self._accepted(label, parts.data)
        elif outcome == "duplicate":
            self._is_known(label)

    def _is_known(self, label: str) -> None:
        if label not in self.stored and label in self.may_be_numbered_twice:
            self.excused.add(label)
            return
        assert label in self.stored, f"{label} is said to be there already, and is not"

    def _accepted(self, label: str, data: bytes) -> None:
        agent_id, sample = _members(data)
        assert label not in self.stored, (
            f"{label} was accepted twice: as {self.stored[label]} and as {agent_id} {sample}"
        )
        highest = self._highest.get(agent_id, 0)
        self.stored[label] = Stored(agent_id, sample, self._is_late(label, data, is_newest=sample > highest))
        self._places[agent_id, sample] = label
        self._highest[agent_id] = max(highest, sample)

    def _is_late(self, label: str, data: bytes, *, is_newest: bool) -> bool | None:
        if not is_newest:
            return True
        measured = self.measured[label]
        waited = self._now() - measured.at
        is_same_boot = measured.boot_id.encode() in data[:_HEAD_BYTES]
        if not is_same_boot or self.is_replay or abs(waited - _LATE_SECONDS) <= _EXACT_SECONDS:
            return None
        return waited > _LATE_SECONDS


def label_of(data: bytes) -> str:
    """Return the label of the measurement in DATA, or in encoded telemetry."""
    match = _LABEL.search(data)
    assert match is not None
    return match[1].decode()


def tick_of(data: bytes) -> tuple[str, int]:
    """Return the id and the tick in DATA."""
    match = _HEAD.match(data)
    assert match is not None
    return match[1].decode(), int(match[3])


def _members(data: bytes) -> tuple[str, int]:
    match = _HEAD.match(data)
    assert match is not None
    return match[1].decode(), int(match[2])


def _origin(parts: Envelope) -> str:
    return _members(parts.data)[0]


def verdict_of(answer: Answer) -> dict[str, Any]:
    """Return the members of a verdict, of nothing if an answer is none."""
    try:
        return dict(json.loads(answer.body)["data"])
    except (ValueError, KeyError, TypeError):
        return {}
