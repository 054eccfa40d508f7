"""The manager's signed answer to a report or a registration, and its consequence for the sender's sample."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from kattila_protocol import message
from kattila_protocol.bounds import Counter, Detail, Nonce, Offset, Uuid, Word
from kattila_protocol.errors import Malformed, Refusal
from kattila_protocol.members import build
from kattila_protocol.names import checked_id
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose

ACCEPTED = "accepted"
DUPLICATE = "duplicate"
# No verdict is longer: the reason of a refusal, which it contains twice, is cut (see `foreign_text`).
MAX_VERDICT_BYTES = 16 * 1024


class Disposition(Enum):
    """What the sender does with a sample: remove it as delivered, drop it as undeliverable, or keep and retry it."""

    DELIVERED = auto()
    DROPPED = auto()
    KEPT = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The manager's verdict on one message.

    `outcome` is "accepted", "duplicate" or the kind of a refusal. `agent_id` is the sender's id, or the id that a
    registration was issued. `nonce` is that of the message. `manager_time` is ms UTC, and `clock_offset` the message's
    timestamp minus the manager's time in ms. `highest_tick` and `highest_sample` are the agent's highest known ones,
    this message included.
    """

    outcome: Word
    agent_id: Uuid
    nonce: Nonce
    manager_time: Counter
    clock_offset: Offset
    highest_tick: Counter = 0
    highest_sample: Counter = 0
    detail: Detail = ""

    @property
    def disposition(self) -> Disposition:
        """What the sender does with the sample."""
        if self.outcome in (ACCEPTED, DUPLICATE):
            return Disposition.DELIVERED
        return Disposition.DROPPED if self.outcome == Malformed.kind else Disposition.KEPT


def seal(verdict: Verdict, key: Key, refusal: Refusal | None = None) -> bytes:
    """Return a signed verdict; with a `refusal`, a problem document that ends with the verdict and its MAC."""
    return message.seal(Purpose.VERDICT, key, verdict, problem=refusal.members if refusal else None)


def unseal(body: bytes, ring: Ring, nonce: str) -> Verdict:
    """Verify and parse the verdict on the message with this nonce.

    Raises:
        Malformed: not a verdict, or a verdict on another message.
        TooLarge, NoKey, BadSignature: see `message.unseal`.
    """
    members, _ = message.unseal(Purpose.VERDICT, ring, body)
    verdict = build(Verdict, members)
    if verdict.nonce != nonce:
        raise Malformed("the verdict has the nonce of another message")
    checked_id(verdict.agent_id, "agent_id")
    return verdict
