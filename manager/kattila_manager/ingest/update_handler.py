"""A report's way through the server, between its body and its answer.

May live here: which refusal is signed, which is counted, and for whom. Not here: how a body is read and how long one
waits for the commit (door, app).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kattila_manager.ingest import reply_address, responses
from kattila_manager.ingest.responses import Response
from kattila_manager.records import Filed, Incoming, refused
from kattila_manager.store.ingest.refusal_counters import Counters
from kattila_protocol.errors import ClockSkew, Malformed, Refusal, RelayLoop
from kattila_protocol.message import check_content_type
from kattila_protocol.registration import Registration
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key
from kattila_protocol.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Begun:
    """A report that is ready to be filed, and the key that its verdict is signed with."""

    incoming: Incoming
    key: Key


@dataclass(frozen=True, slots=True)
class _Sender:
    agent_id: str
    nonce: str
    clock_offset: int


class Intake:
    """Both ends of filing; safe for several threads."""

    def __init__(self, counters: Counters, clock: Callable[[], int]) -> None:
        """Take where refusals are counted, and the clock (ms UTC)."""
        self._counters = counters
        self._clock = clock

    def begin(self, content_type: str, body: bytes, ring: Ring) -> Begun | Response:
        """Read a body: a report to be filed, or the signed refusal of an authentic one.

        Raises:
            WrongContentType, TooLarge, Malformed, TooManyHops, NoKey, BadSignature: nobody is known to have sent it;
                the caller asks for a fresh ring where that may help, and `refuse`s.
        """
        check_content_type(content_type)
        parts, key = reply_address.open_envelope(body, ring)
        now = self._clock()
        try:
            begun = Begun(reply_address.read(parts, key, now), key)
        except Malformed as refusal:
            agent_id, nonce, timestamp = reply_address.sender(parts.data)
            return self._answer(_Sender(agent_id, nonce, timestamp - now), refused(refusal), key)
        try:
            reply_address.check(begun.incoming)
        except (RelayLoop, ClockSkew) as refusal:
            return self.finish(begun, refused(refusal))
        return begun

    def finish(self, begun: Begun, filed: Filed) -> Response:
        """Response after the commit, or after it failed."""
        report = begun.incoming.report
        offset = report.timestamp - begun.incoming.received_at
        return self._answer(_Sender(report.agent_id, report.nonce, offset), filed, begun.key)

    def registered(self, asked: Registration, key: Key, filed: Filed, agent_id: str) -> Response:
        """Response a registration after the commit; `agent_id` is the one that the agent has from now on."""
        offset = asked.timestamp - self._clock()
        return self._answer(_Sender(agent_id, asked.nonce, offset), filed, key)

    def _answer(self, sender: _Sender, filed: Filed, key: Key) -> Response:
        now, refusal = self._clock(), filed.refusal
        verdict = Verdict(
            outcome=filed.outcome,
            agent_id=sender.agent_id,
            nonce=sender.nonce,
            manager_time=now,
            clock_offset=sender.clock_offset,
            highest_tick=filed.highest_tick,
            highest_sample=filed.highest_sample,
            detail=refusal.detail if refusal else "",
        )
        if refusal is None:
            return responses.signed(verdict, key)
        self._counters.note(refusal, sender.agent_id, now)
        return responses.refused(refusal, verdict, key)

    def refuse(self, refusal: Refusal) -> Response:
        """Response a message that nobody is known to have sent."""
        self._counters.note(refusal, None, self._clock())
        return responses.problem(refusal)
