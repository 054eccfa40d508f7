"""Records everything that was measured, sent and stored, and checks the invariants at every message.

It knows more than any machine: each measurement has a unique label, and all times are true.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kattila_agent.outbound.http.clients import RELAY, UPDATES
from kattila_protocol import envelope
from kattila_protocol.envelope import Envelope
from kattila_protocol.errors import Refusal
from support.world.wsgi import Answer

_NONCE = re.compile(rb'"nonce":"([0-9a-f]{32})"')
_HEAD = re.compile(rb'\{"agent_id":"([^"]+)","sample":(\d+),"tick":(\d+),')
# The members before the telemetry are shorter.
_HEAD_BYTES = 400
_MAX_HOPS = 3
_LABEL = re.compile(rb'"measurement":"([^"]+)"')
# A sample is late if it was signed more than a minute after its measurement. Both clocks may be a second off.
_LATE_SECONDS = 60
_EXACT_SECONDS = 2


@dataclass(frozen=True)
class Measured:
    """The true time of a measurement (seconds), and its boot."""

    at: float
    boot_id: str


@dataclass(frozen=True)
class Stored:
    """The number of a stored measurement, and whether it must be marked late (None: either is right)."""

    agent_id: str
    sample: int
    late: bool | None


class Book:
    """All measurements and the verdicts on them; the methods assert the invariants."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.measured: dict[str, Measured] = {}
        # MACs of reports that got the answer to another report from an attacker on the path.
        self.tampered: set[str] = set()
        self.sent: set[str] = set()
        self.stored: dict[str, Stored] = {}
        self.is_replay = False
        self._places: dict[tuple[str, int], str] = {}
        self._highest: dict[str, int] = {}
        # (MAC, sender) of all nested requests in progress.
        self._in_progress: list[tuple[str, str]] = []

    def label_at(self, agent_id: str, sample: int) -> str:
        """Return the label of the measurement that is stored under this number."""
        return self._places[agent_id, sample]

    @contextmanager
    def sending(self, path: str, body: bytes) -> Iterator[None]:
        """Check a request before it is sent, and record it while it is in progress."""
        if path not in (UPDATES, RELAY):
            yield
            return
        parts = envelope.parse(body)
        origin, label = _origin(parts), label_of(parts.data)
        self.sent.add(label)
        sender = parts.relay_path[-1] if parts.relay_path else origin
        self._check_hop(parts, sender, origin)
        self._in_progress.append((parts.mac, sender))
        try:
            yield
        finally:
            self._in_progress.pop()

    def _check_hop(self, parts: Envelope, sender: str, origin: str) -> None:
        path = parts.relay_path
        assert len(path) <= _MAX_HOPS, f"{len(path)} hops"
        assert len(set(path)) == len(path), "a relay is in the path twice"
        assert (parts.mac, sender) not in self._in_progress, f"{sender} relays a report again: a loop"
        # An attacker may replay an old report through other relays; only the manager checks its origin.
        assert self.is_replay or origin not in path, f"{origin} relays its own report"

    def tamper(self, path: str, body: bytes) -> None:
        """Record that the answer to a request is replaced."""
        if path in (UPDATES, RELAY):
            self.tampered.add(envelope.parse(body).mac)

    def check_relay_answer(self, body: bytes, answer: Answer) -> None:
        """Check that a relay returned no verdict on another report, unless an attacker replaced its answer."""
        nonce = None if envelope.parse(body).mac in self.tampered else verdict_of(answer).get("nonce")
        assert nonce is None or f'"nonce":"{nonce}"'.encode() in body, "a relay returned the verdict on another report"

    def record_verdict(self, body: bytes, answer: Answer) -> None:
        """Record the verdict of the manager on a report."""
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
        assert label in self.stored, f"{label} is called a duplicate, but is not stored"

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
        age = self._now() - measured.at
        is_same_boot = measured.boot_id.encode() in data[:_HEAD_BYTES]
        if not is_same_boot or self.is_replay or abs(age - _LATE_SECONDS) <= _EXACT_SECONDS:
            return None
        return age > _LATE_SECONDS


def label_of(data: bytes) -> str:
    """Return the label of the measurement in DATA, or in encoded telemetry."""
    match = _LABEL.search(data)
    assert match is not None
    return match[1].decode()


def tick_of(data: bytes) -> tuple[str, int]:
    """Return the agent id and the tick in DATA."""
    match = _HEAD.match(data)
    assert match is not None
    return match[1].decode(), int(match[3])


def nonce_of(data: bytes) -> str:
    """Return the nonce in DATA."""
    match = _NONCE.search(data[:_HEAD_BYTES])
    assert match is not None
    return match[1].decode()


def _members(data: bytes) -> tuple[str, int]:
    match = _HEAD.match(data)
    assert match is not None
    return match[1].decode(), int(match[2])


def _origin(parts: Envelope) -> str:
    return _members(parts.data)[0]


def verdict_of(answer: Answer) -> dict[str, Any]:
    """Return the members of a verdict; empty if the answer is not a verdict."""
    try:
        return dict(json.loads(answer.body)["data"])
    except (ValueError, KeyError, TypeError):
        return {}
