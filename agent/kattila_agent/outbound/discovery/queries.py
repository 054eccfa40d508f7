"""Asking an agent whether it can pass reports on, and the threads that do so at a pace.

May live here: one signed query from its values to its answer, and how many of them are sent. Not here: who is asked
(addresses), when again, and what follows from an answer (directory).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from http import HTTPStatus

from kattila_agent.config import PORT
from kattila_agent.identity import StateError
from kattila_agent.outbound.connection import Connection, Page, UnreachableError, in_url, unsigned_words
from kattila_agent.outbound.discovery.addresses import candidates, unread
from kattila_agent.outbound.discovery.directory import Directory
from kattila_agent.runtime import Runtime
from kattila_protocol import peer
from kattila_protocol.errors import Refusal
from kattila_protocol.peer import PeerAnswer, PeerQuery
from kattila_protocol.report import Telemetry
from kattila_protocol.ring import Ring
from kattila_settings.values import Listen

PATH = "/status/peer"
# Through a tunnel that has to shake hands first, from the other side of the world, it takes less than one.
ANSWER_SECONDS = 2.0
# No two questions begin within this time; half as much again at most is added by chance.
PACE_SECONDS = 0.25
# How often it is looked whether somebody is due.
LOOK_SECONDS = 1.0
# An address that does not answer keeps its thread for two seconds, the others not.
THREADS = 4

# Gets PATH from the agent at an address with these parameters; raises UnreachableError.
Get = Callable[[str, Mapping[str, str]], Page]

_log = logging.getLogger("kattila.agent")


def url_of(address: str, port: int = PORT) -> str:
    """Return the URL of the agent at an address."""
    return f"http://{in_url(Listen(address, port))}"


def over_http(address: str, parameters: Mapping[str, str], *, port: int = PORT) -> Page:
    """Get PATH from the agent at an address, over a connection of its own; raises UnreachableError."""
    with closing(Connection(url_of(address, port), total_seconds=ANSWER_SECONDS)) as connection:
        return connection.get(PATH, parameters)


def ask(get: Get, own_id: str, address: str, ring: Ring, nonce: str, now: int) -> PeerAnswer:
    """Ask the agent at an address who it is and how far from the manager; `now` is ms UTC.

    Raises:
        UnreachableError: no whole answer came in time.
        Refusal: what came was not signed by a key of the ring, or is no answer to this query; the text has the status
            and what the answer says of itself.
        NoKey: the ring is empty.
    """
    query = PeerQuery(own_id, address, nonce, now)
    page = get(address, query.parameters(ring.current))
    try:
        return peer.unseal_answer(page.body, ring, nonce)
    except Refusal as refusal:
        raise type(refusal)(_said(page, refusal)) from refusal


def _said(page: Page, refusal: Refusal) -> str:
    if page.status == HTTPStatus.OK:
        return f"what answers is no agent of this fleet: {refusal.detail}"
    words = unsigned_words(page.body)
    return f"it refuses (HTTP {page.status})" + (f": {words}" if words else "")


@dataclass(frozen=True, slots=True)
class Discoverer:
    """Asks whoever is due in a directory, until `stop` is set.

    `own_id` may raise StateError; `hurried` tells whether the manager is out of reach.
    """

    runtime: Runtime
    directory: Directory
    get: Get
    ring: Callable[[], Ring]
    own_id: Callable[[], str]
    hurried: Callable[[], bool]
    stop: threading.Event
    turn: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Ask in a few threads, which end with the process."""
        for number in range(THREADS):
            threading.Thread(target=self.run, name=f"discovery-{number}", daemon=True).start()

    def observe(self, telemetry: Telemetry) -> None:
        """Take from a measurement who may be asked from now on."""
        self.directory.update(candidates(telemetry), are_all=not unread(telemetry))

    def run(self) -> None:
        """Ask until stopped. Several threads may do so; they keep one pace."""
        while not self.stop.is_set():
            address = self._next()
            if address is not None:
                self._ask_or_log(address)

    def _ask_or_log(self, address: str) -> None:
        try:
            self._ask(address)
        except Exception:
            # One odd answer does not end discovery for good.
            _log.exception("asking %s failed; this is a mistake in the agent", address)

    def ask_one(self) -> bool:
        """Ask one address that is due, without waiting; tell whether there was one."""
        address = self._due()
        if address is not None:
            self._ask(address)
        return address is not None

    def _next(self) -> str | None:
        """Wait for a turn, and return whom to ask then."""
        with self.turn:
            self.stop.wait(PACE_SECONDS * (1 + self.runtime.share() / 2))
            if self.stop.is_set():
                return None
            address = self._due()
            if address is None:
                self.stop.wait(LOOK_SECONDS)
            return address

    def _due(self) -> str | None:
        # Without a key nothing can be signed.
        may_ask = bool(self.ring().entries)
        return self.directory.due(self.runtime.monotonic(), hurried=self.hurried()) if may_ask else None

    def _ask(self, address: str) -> None:
        began_at = self.runtime.monotonic()
        try:
            own_id = self.own_id()
            answer = ask(self.get, own_id, address, self.ring(), self.runtime.nonce(), self.runtime.now())
        except (UnreachableError, Refusal, StateError) as error:
            _log.debug("no sibling at %s: %s", address, error)
            self.directory.failed(address, self.runtime.monotonic(), self.runtime.share())
            return
        self._note(address, answer, own_id, began_at)

    def _note(self, address: str, answer: PeerAnswer, own_id: str, began_at: float) -> None:
        now, share = self.runtime.monotonic(), self.runtime.share()
        if answer.agent_id == own_id:
            # An address of this node that moves between machines, or a clone of its disk.
            self.directory.failed(address, now, share)
            return
        if answer.next_hop == own_id:
            # What it sends comes through here, so that is no way for what is sent from here.
            answer = replace(answer, distance=None)
        self.directory.answered(address, answer, now - began_at, now, share)
