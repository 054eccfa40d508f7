"""The one tree of refusals. Each knows its HTTP status and its problem type (RFC 9457).

May live here: exceptions that a server answers with. Not here: errors of configuration or of a resolver,
which never leave the machine that they happen on.
"""

from __future__ import annotations

from typing import ClassVar

PROBLEM_PREFIX = "urn:kattila:problem:"


class Refusal(Exception):
    """A message that is not taken.

    `kind` is the stable name (also the last part of the problem type and the signed verdict's outcome), `status`
    the HTTP status, `title` one sentence that never changes, and the exception's text what was wrong this time.
    """

    kind: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]

    def __init__(self, detail: str, *, retry_after_seconds: int | None = None) -> None:
        """Take what was wrong, and after how many seconds it is worth trying again."""
        super().__init__(detail)
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds

    @property
    def members(self) -> dict[str, object]:
        """The members of the problem document (RFC 9457, section 3.1)."""
        return {"type": PROBLEM_PREFIX + self.kind, "title": self.title, "status": self.status, "detail": self.detail}


class Malformed(Refusal):
    """Not what the protocol says: shape, encoding, types or limits."""

    kind = "malformed"
    status = 400
    title = "The message does not have the shape that the protocol asks for."


class BodyTimeout(Refusal):
    """The body did not arrive whole in time."""

    kind = "body_timeout"
    status = 408
    title = "The body did not arrive in time."


class TooLarge(Refusal):
    """The body is over its limit."""

    kind = "too_large"
    status = 413
    title = "The body is larger than the limit."


class WrongContentType(Refusal):
    """The body is not declared as JSON."""

    kind = "wrong_content_type"
    status = 415
    title = "The content type must be application/json."


class BadSignature(Refusal):
    """No key of the ring made this MAC for this purpose and addressee."""

    kind = "bad_signature"
    status = 403
    title = "The MAC fits no key of the ring."


class ClockSkew(Refusal):
    """Authentic, but the sender's clock is too far from ours."""

    kind = "clock_skew"
    status = 409
    title = "The sender's clock is more than 10 minutes off."


class Replay(Refusal):
    """The tick lies behind the window, or the tick or nonce was used by another message."""

    kind = "replay"
    status = 409
    title = "The tick or the nonce was used before."


class Superseded(Refusal):
    """Signed before an administrator reset what is known of this agent."""

    kind = "superseded"
    status = 409
    title = "The message was signed before the last reset."


class IdentityConflict(Refusal):
    """Two machines report under one id, and this one is the newcomer: it must register anew."""

    kind = "identity_conflict"
    status = 409
    title = "Another machine holds this agent id."


class IdentityUnproven(Refusal):
    """Another machine may hold this id; it becomes clear once the known one reports again or stays silent."""

    kind = "identity_unproven"
    status = 409
    title = "It is not yet clear which machine holds this agent id."


class RelayLoop(Refusal):
    """The recipient stands in the relay path already."""

    kind = "relay_loop"
    status = 409
    title = "The relay path already names this agent."


class TooManyHops(Refusal):
    """The relay path is as long as it may be."""

    kind = "too_many_hops"
    status = 409
    title = "The relay path already has its three hops."


class NoWay(Refusal):
    """A relay reaches the manager neither itself nor through others, or what it reached gave no verdict."""

    kind = "no_way"
    status = 502
    title = "This agent has no way to the manager at the moment."


class BudgetSpent(Refusal):
    """The time that the caller allows a relay is too short for another attempt."""

    kind = "budget_spent"
    status = 504
    title = "The time that the caller allows is spent."


class Overloaded(Refusal):
    """More is under way than the server can take now."""

    kind = "overloaded"
    status = 503
    title = "The server cannot take more at the moment."


class NoKey(Refusal):
    """The server has no PSK yet, so that it can verify nothing."""

    kind = "no_key"
    status = 503
    title = "The server has no key yet."
