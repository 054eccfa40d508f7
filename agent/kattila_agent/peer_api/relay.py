"""Pass another agent's report on, the way that this node's own reports go, and hand the manager's verdict back.

May live here: what a relay checks, and what it remembers. Not here: HTTP (app), or what the report says: a relay need
not understand it.

A relay never looks for a way on behalf of others: it has one, or it says that it has none. So a fleet that is cut off
makes no more attempts than its agents make for their own reports.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kattila_agent.outbound.connection import CONNECT_SECONDS, Reply, UnreachableError
from kattila_agent.outbound.delivery import LEAST_SECONDS, RELAY_SECONDS
from kattila_agent.outbound.paths import Way, Ways
from kattila_protocol import envelope, message
from kattila_protocol.envelope import MAX_HOPS, Envelope
from kattila_protocol.errors import BudgetSpent, NoWay, Overloaded, Refusal, RelayLoop, TooManyHops
from kattila_protocol.names import MANAGER
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.signing import Key, Purpose

# So many wait for the manager at once; the API's other threads stay free for questions.
SLOTS = 4
_RETRY_AFTER_SECONDS = 2
# Kept back from what the caller allows, for the way of the answer.
_MARGIN_SECONDS = 0.3
# Verdicts that are handed out again to who did not get them: some minutes of a large site's reports.
_REMEMBERED = 1000
# A verdict has some 400 bytes; what is much larger is not worth the memory.
_REMEMBERED_BYTES = 4096

# Posts a body by a way, within so many seconds; raises UnreachableError.
Onward = Callable[[Way, bytes, float], Reply]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a relay asks of the rest of the agent.

    `verify` runs an operation with the ring, and once more with a fresh one if no key fits; `has_made` tells whether a
    MAC is of a report that is under way from this node, and `busy_seconds` how long the manager is to be left alone, as
    it asked; `now` is ms UTC.
    """

    agent_id: Callable[[], str]
    verify: Callable[[Callable[[Ring], Any], int], Any]
    has_made: Callable[[str], bool]
    busy_seconds: Callable[[], float]
    ways: Ways
    onward: Onward
    now: Callable[[], int]
    monotonic: Callable[[], float]


class Relaying:
    """Passes reports on, a few at a time. Safe for several threads."""

    def __init__(self, surroundings: Surroundings) -> None:
        """Remember nothing yet."""
        self._is = surroundings
        self._slots = threading.BoundedSemaphore(SLOTS)
        self._verdicts = _Verdicts(_REMEMBERED)

    def pass_on(self, body: bytes, allowed_seconds: float | None) -> Reply:
        """Pass a report on and return the manager's answer, unchanged; the caller waits for `allowed_seconds`.

        Raises:
            TooLarge, Malformed, NoKey, BadSignature: no report that is addressed to this agent.
            RelayLoop, TooManyHops: it has been here, or would get too far.
            Overloaded: too many are under way, or the manager says so.
            BudgetSpent: the caller does not wait long enough.
            NoWay: this node does not reach the manager either.
        """
        began = self._is.monotonic()
        parts = envelope.parse(body)
        own_id = self._is.agent_id()
        key = self._is.verify(lambda ring: envelope.verify(parts, ring, own_id), self._is.now())
        remembered = self._verdicts.get(parts.mac)
        if remembered is not None:
            return remembered
        if self._is.has_made(parts.mac):
            raise RelayLoop("this agent made the report itself")
        way = self._way_for(parts, own_id, began)
        onward = envelope.forward(parts, own_id, key, way.next_hop or MANAGER)
        return self._asked(
            way, onward, key, began + min(RELAY_SECONDS if allowed_seconds is None else allowed_seconds, RELAY_SECONDS)
        )

    def _way_for(self, parts: Envelope, own_id: str, now: float) -> Way:
        way = self._is.ways.current(now)
        if own_id in parts.relay_path or (way is not None and way.next_hop in parts.relay_path):
            raise RelayLoop("the way on leads back to where the report came from")
        if way is None:
            raise NoWay("this agent's own reports do not reach the manager either")
        if len(parts.relay_path) + 1 + way.distance > MAX_HOPS:
            raise TooManyHops(
                f"it has passed {len(parts.relay_path)} relays, and {way.distance + 1} more stand between here and the "
                f"manager; the limit is {MAX_HOPS}"
            )
        return way

    def _asked(self, way: Way, onward: Envelope, key: Key, deadline: float) -> Reply:
        busy_seconds = self._is.busy_seconds()
        if way.relay is None and busy_seconds > 0:
            raise Overloaded("the manager asks to be left alone", retry_after_seconds=math.ceil(busy_seconds))
        if not self._slots.acquire(blocking=False):
            raise Overloaded(f"{SLOTS} reports are being passed on", retry_after_seconds=_RETRY_AFTER_SECONDS)
        try:
            seconds = deadline - _MARGIN_SECONDS - self._is.monotonic()
            if seconds < LEAST_SECONDS:
                raise BudgetSpent(f"{max(0, round(seconds * 1000))} ms are left for the way to the manager")
            reply = self._answer(way, onward, seconds)
        finally:
            self._slots.release()
        return self._checked(reply, way, onward.mac, key)

    def _answer(self, way: Way, onward: Envelope, seconds: float) -> Reply:
        try:
            return self._is.onward(way, onward.to_bytes(), seconds)
        except UnreachableError as error:
            if seconds >= CONNECT_SECONDS:
                # Until this node's own next report has found one.
                self._is.ways.lost(way)
            raise NoWay(
                f"{'the manager' if way.relay is None else 'the next relay'} does not answer: {error}"
            ) from None

    def _checked(self, reply: Reply, way: Way, mac: str, key: Key) -> Reply:
        try:
            # The manager answers under the key that verified the report.
            message.unseal(Purpose.VERDICT, Ring((RingEntry(key, first_seen_at=0),)), reply.body)
        except Refusal as error:
            if reply.status == Overloaded.status and reply.retry_after_seconds is not None:
                raise Overloaded(
                    "the way to the manager is busy", retry_after_seconds=reply.retry_after_seconds
                ) from None
            if reply.status == NoWay.status:
                self._is.ways.lost(way)
            raise NoWay(f"what answers is not the manager (HTTP {reply.status}): {error.detail}") from None
        self._verdicts.add(mac, reply)
        return reply


class _Verdicts:
    """The manager's last answers, by the MAC of the report that they are about."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Reply] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, mac: str) -> Reply | None:
        with self._lock:
            return self._kept.get(mac)

    def add(self, mac: str, reply: Reply) -> None:
        if len(reply.body) > _REMEMBERED_BYTES or reply.status == Overloaded.status:
            return
        with self._lock:
            self._kept[mac] = reply
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
