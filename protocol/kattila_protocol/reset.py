"""The request that makes an agent drop its state and take a new id (POST /status/reset), and its answer.

A reset names the id that it ends, so a second copy of it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from kattila_protocol import message
from kattila_protocol.bounds import Counter, Nonce, Uuid
from kattila_protocol.errors import BadSignature, Malformed
from kattila_protocol.freshness import check_skew
from kattila_protocol.names import checked_counter, checked_id, checked_nonce
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose


@dataclass(frozen=True, slots=True)
class Reset:
    """The id of the agent to reset, and when the request was signed (ms UTC)."""

    agent_id: Uuid
    nonce: Nonce
    timestamp: Counter


@dataclass(frozen=True, slots=True)
class ResetAnswer:
    """The new id of the agent, and the nonce of the request."""

    new_agent_id: Uuid
    nonce: Nonce


def seal(reset: Reset, key: Key) -> bytes:
    """Return the request body of POST /status/reset."""
    return message.seal(Purpose.RESET, key, reset)


def unseal(body: bytes, ring: Ring, own_id: str, now: int) -> tuple[Reset, Key]:
    """Verify and parse a reset of this agent; return it and the key that signed it.

    Raises:
        TooLarge, Malformed, NoKey, BadSignature: see `message.unseal`; BadSignature also if it names another id.
        ClockSkew: see `check_skew`.
    """
    members, key = message.unseal(Purpose.RESET, ring, body)
    reset = Reset(
        agent_id=checked_id(members.get("agent_id"), "agent_id"),
        nonce=checked_nonce(members.get("nonce")),
        timestamp=checked_counter(members.get("timestamp"), "timestamp"),
    )
    if reset.agent_id != own_id:
        raise BadSignature("the reset is addressed to another id")
    check_skew(reset.timestamp, now)
    return reset, key


def seal_answer(answer: ResetAnswer, key: Key) -> bytes:
    """Return the signed answer."""
    return message.seal(Purpose.VERDICT, key, answer)


def unseal_answer(body: bytes, ring: Ring, nonce: str) -> ResetAnswer:
    """Verify and parse the answer to the reset with this nonce.

    Raises:
        TooLarge, Malformed, NoKey, BadSignature: see `message.unseal`; Malformed also for the answer to another reset.
    """
    members, _ = message.unseal(Purpose.VERDICT, ring, body)
    if members.get("nonce") != nonce:
        raise Malformed("the answer has the nonce of another reset")
    return ResetAnswer(checked_id(members.get("new_agent_id"), "new_agent_id"), nonce)
