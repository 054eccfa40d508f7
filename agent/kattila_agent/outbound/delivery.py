"""Carry bytes to the manager, itself or through a relay, and tell what became of them.

May live here: in which order recipients are tried, and what an answer is worth. Not here: what the bytes say, who may
relay (discovery), and what waits (spool).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from kattila_agent.config import PORT
from kattila_agent.outbound.connection import Connection, Reply, UnreachableError, in_url, unsigned_words
from kattila_agent.outbound.discovery import Directory, Relay
from kattila_agent.outbound.paths import Way, Ways
from kattila_protocol import verdict
from kattila_protocol.errors import PROBLEM_PREFIX, NoWay, Overloaded, Refusal
from kattila_protocol.names import MANAGER
from kattila_protocol.ring import Ring
from kattila_protocol.verdict import Verdict
from kattila_settings.values import Listen

UPDATES = "/status/updates"
REGISTER = "/status/register"
RELAY = "/status/relay"
# The header by which a caller tells a relay how long it will wait, in ms.
BUDGET = "Kattila-Budget-Ms"

# With the manager down, a fleet that has not heard of that yet makes no more attempts than this for each report.
MAX_RELAYS_TRIED = 3
# For one relay, which may need as long as we do to find that its next one does not answer.
RELAY_SECONDS = 6.0
# A report of the same cycle waits behind it.
_REGISTER_SECONDS = 5.0
# A relay is near.
_CONNECT_SECONDS = 2.0
# For all relays of one report together: what is left of an interval after the manager did not answer.
_RELAYS_SECONDS = 12.0
# A relay that is asked for less than this could not do anything.
LEAST_SECONDS = 0.5
# However long a server asks to be left alone, it is asked again after this.
_MOST_BUSY_SECONDS = 30

# Posts a body to the agent at an address; raises UnreachableError, also when the seconds are over.
PostToRelay = Callable[[str, str, bytes, float], Reply]


@dataclass(frozen=True, slots=True)
class Answered:
    """The manager's verdict, signed by a key of the ring."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Unsigned:
    """Something answered, but no key of the ring signed that: whatever it says, nothing was delivered.

    `reason` is what is wrong with the answer, `words` what it says of itself, if anything; `kind` is the kind of the
    refusal that it claims to be, empty for none.
    """

    status: int
    reason: str
    words: str
    kind: str


@dataclass(frozen=True, slots=True)
class Busy:
    """The server asks to be left alone for a while."""

    retry_after_seconds: int
    words: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Nothing answered."""

    reason: str


Outcome = Answered | Unsigned | Busy | Unreachable


@dataclass(frozen=True, slots=True)
class Parcel:
    """A report that is signed but not yet addressed.

    `addressed_to` returns the body for a recipient: the manager, or a relay's id. `nonce` is the report's, `mac` its
    MAC, and `ring` what the verdict is verified with.
    """

    nonce: str
    mac: str
    ring: Ring
    addressed_to: Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of a parcel: the outcome that counts, and the way it came by.

    `relay` is who passed it on, None if nobody did; `direct` is what the manager itself said or why it could not be
    asked, and `failed` are the relays that were asked in vain, with what they said.
    """

    outcome: Outcome
    direct: Outcome
    relay: Relay | None = None
    failed: tuple[tuple[Relay, Outcome], ...] = ()


class Manager:
    """The manager, as a recipient. For one thread."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection to it."""
        self._connection = connection

    @property
    def address(self) -> str | None:
        """Its IP address, None while unknown."""
        return self._connection.address

    def deliver(self, parcel: Parcel) -> Outcome:
        """Post a report."""
        return self._post(UPDATES, parcel.addressed_to(MANAGER), parcel.nonce, parcel.ring)

    def register(self, registration: bytes, nonce: str, ring: Ring) -> Outcome:
        """Post a sealed registration; `nonce` is the one in it."""
        return self._post(REGISTER, registration, nonce, ring, _REGISTER_SECONDS)

    def _post(self, path: str, body: bytes, nonce: str, ring: Ring, seconds: float | None = None) -> Outcome:
        try:
            return read(self._connection.post(path, body, total_seconds=seconds), nonce, ring)
        except UnreachableError as error:
            return Unreachable(str(error))


class Courier:
    """Takes this node's own reports to the manager. For one thread, which sets `ways`."""

    def __init__(
        self,
        *,
        manager: Manager,
        post: PostToRelay,
        directory: Directory,
        ways: Ways,
        monotonic: Callable[[], float],
        share: Callable[[], float],
    ) -> None:
        """Join the parts: `directory` knows the relays, and `post` asks one of them."""
        self._manager = manager
        self._post = post
        self._directory = directory
        self._ways = ways
        self._monotonic = monotonic
        self._share = share
        self._busy_until = 0.0
        self._was_busy = False
        self._under_way = ""

    def has_made(self, mac: str) -> bool:
        """Tell whether the report with this MAC is the one that is under way from here. For any thread."""
        return mac == self._under_way

    def busy_seconds(self) -> float:
        """Return how long the manager is still to be left alone, 0 if it is not. For any thread."""
        return max(0.0, self._busy_until - self._monotonic())

    def deliver(self, parcel: Parcel, own_id: str) -> Carried:
        """Take a report to the manager, else to relays, nearest first; `own_id` is whom they must not lead back to."""
        self._under_way = parcel.mac
        direct = self._ask_manager(parcel)
        if isinstance(direct, Answered):
            self._ways.found(Way(None), self._monotonic())
            return Carried(direct, direct)
        # Anybody may say so unsigned. It is believed for one report, not for a whole day.
        was_busy, self._was_busy = self._was_busy, isinstance(direct, Busy)
        if self._was_busy and not was_busy:
            return Carried(direct, direct)
        return self._through_relays(parcel, own_id, direct)

    def deliver_again(self, parcel: Parcel) -> Outcome:
        """Take a report that waited the way that the newest one went, and no other."""
        self._under_way = parcel.mac
        way = self._ways.current(self._monotonic())
        if way is None:
            return Unreachable("the newest report did not arrive")
        if way.relay is None:
            return self._ask_manager(parcel)
        return self._ask(way.relay, parcel, RELAY_SECONDS)

    def _ask_manager(self, parcel: Parcel) -> Outcome:
        left = self.busy_seconds()
        if left > 0:
            return Busy(round(left), "it asked to be left alone for a while")
        outcome = self._manager.deliver(parcel)
        if isinstance(outcome, Busy):
            self._busy_until = self._monotonic() + outcome.retry_after_seconds
        return outcome

    def _through_relays(self, parcel: Parcel, own_id: str, direct: Outcome) -> Carried:
        deadline = self._monotonic() + _RELAYS_SECONDS
        failed: list[tuple[Relay, Outcome]] = []
        for relay in self._directory.relays(own_id, self._monotonic())[:MAX_RELAYS_TRIED]:
            left = deadline - self._monotonic()
            if left < LEAST_SECONDS:
                break
            outcome = self._ask(relay, parcel, min(left, RELAY_SECONDS))
            if isinstance(outcome, Answered):
                self._ways.found(Way(relay), self._monotonic())
                return Carried(outcome, direct, relay, tuple(failed))
            failed.append((relay, outcome))
        self._ways.lost()
        return Carried(direct, direct, None, tuple(failed))

    def _ask(self, relay: Relay, parcel: Parcel, seconds: float) -> Outcome:
        outcome = self._outcome_at(relay, parcel, seconds)
        now = self._monotonic()
        if isinstance(outcome, Answered):
            self._directory.passed_on(relay.agent_id, now)
        elif not isinstance(outcome, Busy):
            # One that is busy now is as good as before in the next interval.
            knows_no_way = isinstance(outcome, Unsigned) and outcome.kind == NoWay.kind
            self._directory.refused(relay.agent_id, now, self._share(), knows_no_way=knows_no_way)
        return outcome

    def _outcome_at(self, relay: Relay, parcel: Parcel, seconds: float) -> Outcome:
        try:
            reply = self._post(relay.address, RELAY, parcel.addressed_to(relay.agent_id), seconds)
        except UnreachableError as error:
            return Unreachable(str(error))
        return read(reply, parcel.nonce, parcel.ring)


def post_to_relay(address: str, path: str, body: bytes, seconds: float) -> Reply:
    """Post a body to the agent at an address, and tell it how long that may take; raises UnreachableError."""
    connection = Connection(f"http://{in_url(Listen(address, PORT))}", connect_seconds=_CONNECT_SECONDS)
    try:
        return connection.post(path, body, {BUDGET: str(round(seconds * 1000))}, total_seconds=seconds)
    finally:
        connection.close()


def read(reply: Reply, nonce: str, ring: Ring) -> Outcome:
    """Return what an answer to the message with this nonce is worth."""
    try:
        return Answered(verdict.unseal(reply.body, ring, nonce))
    except Refusal as error:
        words = unsigned_words(reply.body)
        if reply.status == Overloaded.status and reply.retry_after_seconds is not None:
            return Busy(min(reply.retry_after_seconds, _MOST_BUSY_SECONDS), words)
        return Unsigned(reply.status, error.detail, words, _kind(reply.body))


def _kind(body: bytes) -> str:
    """Return the kind of a refusal that nobody signed: a hint for the choice of a relay, and no more."""
    try:
        claimed = json.loads(body)["type"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return str(claimed).removeprefix(PROBLEM_PREFIX) if str(claimed).startswith(PROBLEM_PREFIX) else ""
