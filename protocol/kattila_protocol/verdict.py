"""The signed answer to a report or a registration.

May live here: what a receiver says of an authentic message, and what its sender does with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from kattila_protocol import message
from kattila_protocol.errors import Malformed, Refusal
from kattila_protocol.names import checked_counter, checked_id, checked_nonce
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
    verdict = _from_members(members)
    if verdict.nonce != nonce:
        raise Malformed("the verdict is on another message")
    return verdict


def _from_members(members: dict[str, Any]) -> Verdict:
    offset = members.get("clock_offset")
    outcome, detail = members.get("outcome"), members.get("detail", "")
    if not isinstance(outcome, str) or not isinstance(detail, str):
        raise Malformed("the verdict lacks its outcome or its detail")
    if not isinstance(offset, int) or isinstance(offset, bool):
        raise Malformed("clock_offset is not an integer")
    return Verdict(
        outcome=outcome,
        agent_id=checked_id(members.get("agent_id"), "agent_id"),
        nonce=checked_nonce(members.get("nonce")),
        manager_time=checked_counter(members.get("manager_time"), "manager_time"),
        clock_offset=offset,
        highest_tick=checked_counter(members.get("highest_tick", 0), "highest_tick"),
        highest_sample=checked_counter(members.get("highest_sample", 0), "highest_sample"),
        detail=detail,
    )
