"""Query sibling agents for their distance to the manager: one signed query, and the threads that send many."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from kattila_agent.identity import StateError
from kattila_agent.outbound.discovery.directory import Directory
from kattila_agent.outbound.http.connection import Page, UnreachableError, unsigned_words
from kattila_agent.runtime import Runtime
from kattila_protocol import peer
from kattila_protocol.errors import Refusal
from kattila_protocol.peer import PeerAnswer, PeerQuery
from kattila_protocol.ring import Ring
from kattila_settings.failures import Failures, keep_running

# At least this much time passes between the starts of two queries, plus up to half as much at random.
PACE_SECONDS = 0.25
# How often the directory is checked for an address that is due.
CHECK_SECONDS = 1.0
# An address that does not answer occupies a thread for two seconds, but not the others.
THREADS = 4

# Sends query parameters to the agent at an address, like AgentClient.query; raises UnreachableError.
Get = Callable[[str, Mapping[str, str]], Page]

_log = logging.getLogger("kattila.agent")


def query(get: Get, own_id: str, address: str, ring: Ring, nonce: str, now: int) -> PeerAnswer:
    """Return the answer of the agent at an address; `now` is ms UTC.

    Raises:
        UnreachableError: no whole answer came in time.
        Refusal: no key of the ring signed the answer, or it does not belong to this query; the text has the status and
            a quote of the answer.
        NoKey: the ring is empty.
    """
    page = get(address, PeerQuery(own_id, address, nonce, now).parameters(ring.current))
    try:
        return peer.unseal_answer(page.body, ring, nonce)
    except Refusal as refusal:
        raise type(refusal)(_explained(page, refusal)) from refusal


def _explained(page: Page, refusal: Refusal) -> str:
    if page.status == HTTPStatus.OK:
        return f"the answer is not from an agent of this fleet: {refusal.detail}"
    words = unsigned_words(page.body)
    return f"it refuses (HTTP {page.status})" + (f": {words}" if words else "")


@dataclass(frozen=True, slots=True)
class Discoverer:
    """Queries the addresses that are due in a directory, until `stop` is set.

    `own_id` may raise StateError; `hurried` returns whether the manager is out of reach at a moment.
    """

    runtime: Runtime
    directory: Directory
    get: Get
    ring: Callable[[], Ring]
    own_id: Callable[[], str]
    hurried: Callable[[float], bool]
    stop: threading.Event = field(default_factory=threading.Event)
    turn: threading.Lock = field(default_factory=threading.Lock)
    failures: Failures = field(default_factory=lambda: Failures(_log))

    def start(self) -> None:
        """Send queries from a few threads, which end with the process."""
        for number in range(THREADS):
            threading.Thread(target=self.run, name=f"discovery-{number}", daemon=True).start()

    def run(self) -> None:
        """Send queries until stopped. Several threads may do so; they share one pace."""
        keep_running(self._take_turn, "discovery", self.failures, self.stop.wait)

    def _take_turn(self) -> bool:
        """Query the next address that is due, if any; return whether to continue."""
        address = self._next()
        if address is not None:
            # One odd answer must not end discovery.
            with self.failures.guard(f"querying {address}"):
                self.query_and_note(address)
        return not self.stop.is_set()

    def due(self) -> str | None:
        """Return the address to query now, None if none is due or the ring is empty."""
        if not self.ring().entries:
            return None
        now = self.runtime.monotonic()
        return self.directory.due(now, hurried=self.hurried(now))

    def query_and_note(self, address: str) -> None:
        """Query an address and note its answer, or that there was none, in the directory."""
        began_at = self.runtime.monotonic()
        try:
            own_id = self.own_id()
            answer = query(self.get, own_id, address, self.ring(), self.runtime.nonce(), self.runtime.now())
        except (UnreachableError, Refusal, StateError) as error:
            _log.debug("no sibling at %s: %s", address, error)
            self.directory.failed(address, self.runtime.monotonic(), self.runtime.share())
            return
        self._note(address, answer, own_id, began_at)

    def _next(self) -> str | None:
        """Wait for this thread's turn; return the address that is due then, if any."""
        with self.turn:
            self.stop.wait(PACE_SECONDS * (1 + self.runtime.share() / 2))
            if self.stop.is_set():
                return None
            address = self.due()
            if address is None:
                self.stop.wait(CHECK_SECONDS)
            return address

    def _note(self, address: str, answer: PeerAnswer, own_id: str, began_at: float) -> None:
        now, share = self.runtime.monotonic(), self.runtime.share()
        if answer.agent_id == own_id:
            # An own address that moves between machines, or a clone of this node's disk.
            self.directory.failed(address, now, share)
            return
        if answer.next_hop == own_id:
            # Its reports come through here, so it is not a path for reports from here.
            answer = replace(answer, distance=None)
        self.directory.answered(address, answer, now - began_at, now, share)
