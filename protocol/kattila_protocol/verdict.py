"""The signed answer to a report or a registration.

May live here: what a receiver says of an authentic message, and what its sender does with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from kattila_protocol import message
from kattila_protocol.errors import Malformed, Refusal
from kattila_protocol.members import build
from kattila_protocol.names import checked_counter, checked_id
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose

ACCEPTED = "accepted"
DUPLICATE = "duplicate"


class Disposition(Enum):
    """What the sender does with the sample: it arrived, it can never arrive, or it is kept and tried again."""

    DELIVERED = auto()
    DROPPED = auto()
    KEPT = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the manager made of one message.

    `outcome` is "accepted", "duplicate" or the kind of a refusal; `agent_id` the sender's id, or the one issued to it
    by a registration; `nonce` the message's; `manager_time` is ms UTC; `clock_offset` the sender's timestamp less the
    manager's time in ms; the highest tick and sample are those known of the agent, after this message.
    """

    outcome: str
    agent_id: str
    nonce: str
    manager_time: int
    clock_offset: int
    highest_tick: int = 0
    highest_sample: int = 0
    detail: str = ""

    @property
    def disposition(self) -> Disposition:
        """What the sender does with the sample."""
        if self.outcome in (ACCEPTED, DUPLICATE):
            return Disposition.DELIVERED
        return Disposition.DROPPED if self.outcome == Malformed.kind else Disposition.KEPT


def seal(verdict: Verdict, key: Key, refusal: Refusal | None = None) -> bytes:
    """Sign a verdict; a refusal's becomes a problem document that carries the verdict as its last two members."""
    return message.seal(Purpose.VERDICT, key, verdict, problem=refusal.members if refusal else None)


def unseal(body: bytes, ring: Ring, nonce: str) -> Verdict:
    """Read the verdict on the message that had this nonce.

    Raises:
        Malformed: not a verdict, or one on another message.
        TooLarge, NoKey, BadSignature: see `message.unseal`.
    """
    members, _ = message.unseal(Purpose.VERDICT, ring, body)
    verdict = build(Verdict, members)
    if verdict.nonce != nonce:
        raise Malformed("the verdict is on another message")
    checked_id(verdict.agent_id, "agent_id")
    checked_counter(verdict.manager_time, "manager_time")
    checked_counter(verdict.highest_tick, "highest_tick")
    checked_counter(verdict.highest_sample, "highest_sample")
    return verdict
