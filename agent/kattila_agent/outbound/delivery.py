"""Deliver reports to the manager, directly or through a relay, and interpret the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from kattila_agent.outbound.discovery import Directory, Relay
from kattila_agent.outbound.http.clients import UPDATES, Clients
from kattila_agent.outbound.http.connection import Reply, UnreachableError, unsigned_words
from kattila_agent.outbound.paths import DeliveryPath, Uplink
from kattila_agent.runtime import Runtime
from kattila_protocol import envelope, verdict
from kattila_protocol.errors import PROBLEM_PREFIX, NoWay, Overloaded, Refusal
from kattila_protocol.names import MANAGER
from kattila_protocol.ring import Ring
from kattila_protocol.verdict import Verdict

# While the manager is down, an agent that does not know yet makes at most this many attempts for each report.
MAX_RELAYS_TRIED = 3
# For one relay, which may need as long as this agent to find that its own next hop does not answer.
RELAY_SECONDS = 6.0
# For all relays of one report together: the rest of an interval in which the manager did not answer.
_RELAYS_SECONDS = 12.0
# In less time than this a relay can do nothing.
LEAST_SECONDS = 0.5
# The longest pause that the agent grants a server, whatever the server asks for.
_MAX_PAUSE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Answered:
    """The manager's verdict, signed by a key of the ring."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Unsigned:
    """An answer that no key of the ring signed: nothing was delivered.

    `reason` says what is wrong with the answer and `words` quotes it; `kind` is the kind of refusal that it claims to
    be, empty if none.
    """

    status: int
    reason: str
    words: str
    kind: str


@dataclass(frozen=True, slots=True)
class Busy:
    """The server asks for a pause."""

    retry_after_seconds: int
    words: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """There was no answer."""

    reason: str


Outcome = Answered | Unsigned | Busy | Unreachable


@dataclass(frozen=True, slots=True)
class OutgoingReport:
    """A report without a recipient; `ring` signs it and verifies its verdict.

    `encode` returns its data with the current time. Tick and nonce stay, so that sending it again is a duplicate.
    """

    encode: Callable[[], bytes]
    nonce: str
    ring: Ring


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The result of a delivery.

    `outcome` is the result that counts, `direct` that of the manager itself. `relay` is the one that passed the report
    on, None if none did; `failed` are the relays that did not, with their outcomes.
    """

    outcome: Outcome
    direct: Outcome
    relay: Relay | None = None
    failed: tuple[tuple[Relay, Outcome], ...] = ()


class Delivery:
    """Delivers this node's own reports. For one thread."""

    def __init__(self, clients: Clients, directory: Directory, uplink: Uplink, runtime: Runtime) -> None:
        """Take the parts; relays come from the directory."""
        self._clients = clients
        self._directory = directory
        self._uplink = uplink
        self._runtime = runtime
        self._was_busy = False

    def deliver(self, report: OutgoingReport, own_id: str) -> DeliveryResult:
        """Deliver a report to the manager, or to the nearest relay that avoids `own_id`."""
        direct = self._send_to_manager(report)
        if isinstance(direct, Answered):
            self._uplink.found(DeliveryPath(None), self._runtime.monotonic())
            return DeliveryResult(direct, direct)
        # The pause is not signed, so anybody can ask for it: it is granted once, and not again for the next report.
        was_busy, self._was_busy = self._was_busy, isinstance(direct, Busy)
        if self._was_busy and not was_busy:
            return DeliveryResult(direct, direct)
        return self._send_through_relays(report, own_id, direct)

    def deliver_again(self, report: OutgoingReport) -> Outcome:
        """Deliver a report that waited on the path of the newest report, and on no other."""
        path = self._uplink.path(self._runtime.monotonic())
        if path is None:
            return Unreachable("the newest report did not arrive")
        if path.relay is None:
            return self._send_to_manager(report)
        return self._send_to_relay(path.relay, report, RELAY_SECONDS)

    def _send_to_manager(self, report: OutgoingReport) -> Outcome:
        pause = self._uplink.pause_seconds(self._runtime.monotonic())
        if pause > 0:
            return Busy(round(pause), "it asked for a pause")
        try:
            reply = self._clients.manager.post(UPDATES, lambda: self._signed(report, MANAGER))
        except UnreachableError as error:
            return Unreachable(str(error))
        outcome = read_answer(reply, report.nonce, report.ring)
        if isinstance(outcome, Busy):
            self._uplink.pause(outcome.retry_after_seconds, self._runtime.monotonic())
        return outcome

    def _send_through_relays(self, report: OutgoingReport, own_id: str, direct: Outcome) -> DeliveryResult:
        deadline = self._runtime.monotonic() + _RELAYS_SECONDS
        failed: list[tuple[Relay, Outcome]] = []
        for relay in self._directory.relays(own_id, self._runtime.monotonic())[:MAX_RELAYS_TRIED]:
            left = deadline - self._runtime.monotonic()
            if left < LEAST_SECONDS:
                break
            outcome = self._send_to_relay(relay, report, min(left, RELAY_SECONDS))
            if isinstance(outcome, Answered):
                self._uplink.found(DeliveryPath(relay), self._runtime.monotonic())
                return DeliveryResult(outcome, direct, relay, tuple(failed))
            failed.append((relay, outcome))
        self._uplink.lost()
        return DeliveryResult(direct, direct, None, tuple(failed))

    def _send_to_relay(self, relay: Relay, report: OutgoingReport, seconds: float) -> Outcome:
        outcome: Outcome
        try:
            reply = self._clients.agents.relay(relay.address, lambda: self._signed(report, relay.agent_id), seconds)
            outcome = read_answer(reply, report.nonce, report.ring)
        except UnreachableError as error:
            outcome = Unreachable(str(error))
        now = self._runtime.monotonic()
        if isinstance(outcome, Answered):
            self._directory.passed_on(relay.agent_id, now)
        elif not isinstance(outcome, Busy):
            # A relay that is busy now stays a good choice for the next interval.
            has_no_path = isinstance(outcome, Unsigned) and outcome.kind == NoWay.kind
            self._directory.refused(relay.agent_id, now, self._runtime.share(), has_no_path=has_no_path)
        return outcome

    def _signed(self, report: OutgoingReport, recipient: str) -> bytes:
        sealed = envelope.seal(report.encode(), report.ring.current, recipient)
        self._uplink.report_mac = sealed.mac
        return sealed.to_bytes()


def read_answer(reply: Reply, nonce: str, ring: Ring) -> Outcome:
    """Return what a reply means for the message with this nonce."""
    try:
        return Answered(verdict.unseal(reply.body, ring, nonce))
    except Refusal as error:
        words = unsigned_words(reply.body)
        if reply.status == Overloaded.status and reply.retry_after_seconds is not None:
            return Busy(min(reply.retry_after_seconds, _MAX_PAUSE_SECONDS), words)
        return Unsigned(reply.status, error.detail, words, _claimed_kind(reply.body))


def _claimed_kind(body: bytes) -> str:
    """Return the claimed kind of an unsigned refusal, a hint for choosing a relay."""
    try:
        claimed = json.loads(body)["type"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return str(claimed).removeprefix(PROBLEM_PREFIX) if str(claimed).startswith(PROBLEM_PREFIX) else ""
