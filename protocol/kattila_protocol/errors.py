"""The refusals of a message, each with its HTTP status and its problem type (RFC 9457)."""

from __future__ import annotations

from typing import ClassVar

from kattila_protocol.foreign_text import DETAIL_LENGTH, shown

PROBLEM_PREFIX = "urn:kattila:problem:"


class Refusal(Exception):
    """A message is refused. Servers answer with its `members`.

    `kind` is the last part of the problem type and the outcome of a signed verdict, `status` the HTTP status, `title` a
    fixed sentence, and `detail` (also the text of the exception) what is wrong with this message. It may quote text of
    others, and is escaped and cut for that reason.
    """

    kind: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]

    def __init__(self, detail: str, *, retry_after_seconds: int | None = None) -> None:
        """Take what is wrong, and when the client should retry (Retry-After)."""
        self.detail = shown(detail, DETAIL_LENGTH)
        super().__init__(self.detail)
        self.retry_after_seconds = retry_after_seconds

    @property
    def members(self) -> dict[str, object]:
        """The members of the problem document (RFC 9457, section 3.1)."""
        return {"type": PROBLEM_PREFIX + self.kind, "title": self.title, "status": self.status, "detail": self.detail}


class Malformed(Refusal):
    """The shape, encoding, a type or a limit violates the protocol."""

    kind = "malformed"
    status = 400
    title = "The message does not have the shape that the protocol asks for."


class BodyTimeout(Refusal):
    """The body did not arrive completely in time."""

    kind = "body_timeout"
    status = 408
    title = "The body did not arrive in time."


class TooLarge(Refusal):
    """The body exceeds its limit."""

    kind = "too_large"
    status = 413
    title = "The body is larger than the limit."


class WrongContentType(Refusal):
    """The content type is not JSON."""

    kind = "wrong_content_type"
    status = 415
    title = "The content type must be application/json."


class BadSignature(Refusal):
    """No key of the ring made this MAC for this purpose and recipient."""

    kind = "bad_signature"
    status = 403
    title = "The MAC fits no key of the ring."


class ClockSkew(Refusal):
    """The message is authentic, but the clocks of sender and receiver are too far apart."""

    kind = "clock_skew"
    status = 409
    title = "The sender's clock is more than 10 minutes off."


class Replay(Refusal):
    """The tick is behind the window, or another message used the tick or the nonce."""

    kind = "replay"
    status = 409
    title = "The tick or the nonce was used before."


class NumbersTooHigh(Refusal):
    """The tick or the sample is higher than an agent can have reached by now."""

    kind = "numbers_too_high"
    status = 409
    title = "The tick or the sample is higher than time allows."


class SampleTaken(Refusal):
    """Another measurement was accepted under this sample number."""

    kind = "sample_taken"
    status = 409
    title = "Another measurement has this sample number."


class Superseded(Refusal):
    """The message was signed before an administrator reset this agent."""

    kind = "superseded"
    status = 409
    title = "The message was signed before the last reset."


class IdentityConflict(Refusal):
    """Two machines report under one id, and this one came second: it must register a new id."""

    kind = "identity_conflict"
    status = 409
    title = "Another machine holds this agent id."


class IdentityUnproven(Refusal):
    """Another machine may hold this id. The manager decides when that one reports again or stays silent."""

    kind = "identity_unproven"
    status = 409
    title = "It is not yet clear which machine holds this agent id."


class TooManyAgents(Refusal):
    """The manager takes no more new agents at the moment. The next message may be taken."""

    kind = "too_many_agents"
    status = 503
    title = "The manager takes no more new agents at the moment."


class RelayLoop(Refusal):
    """The relay path already contains the recipient."""

    kind = "relay_loop"
    status = 409
    title = "The relay path already names this agent."


class TooManyHops(Refusal):
    """The relay path has its maximum length."""

    kind = "too_many_hops"
    status = 409
    title = "The relay path already has its three hops."


class NoWay(Refusal):
    """A relay got no verdict, neither from the manager nor through other relays."""

    kind = "no_way"
    status = 502
    title = "This agent has no way to the manager at the moment."


class BudgetSpent(Refusal):
    """The client's remaining time is too short for another attempt to relay its report."""

    kind = "budget_spent"
    status = 504
    title = "The time that the caller allows is spent."


class Overloaded(Refusal):
    """The server has too many requests in progress."""

    kind = "overloaded"
    status = 503
    title = "The server cannot take more at the moment."


class NoKey(Refusal):
    """The server has no PSK yet and cannot verify any message."""

    kind = "no_key"
    status = 503
    title = "The server has no key yet."
