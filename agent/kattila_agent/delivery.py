"""Carry bytes to the manager and tell what became of them.

May live here: in which order recipients are tried (for now the manager alone; relays and the spool come behind it) and
what an answer is worth. Not here: what the bytes say.
"""

from __future__ import annotations

from dataclasses import dataclass

from kattila_agent.connection import Connection, UnreachableError, unsigned_words
from kattila_protocol import verdict
from kattila_protocol.errors import Refusal
from kattila_protocol.ring import Ring
from kattila_protocol.verdict import Verdict

UPDATES = "/status/updates"
REGISTER = "/status/register"


@dataclass(frozen=True, slots=True)
class Answered:
    """The manager's verdict, signed by a key of the ring."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Unsigned:
    """Something answered, but no key of the ring signed that: whatever it says, nothing was delivered.

    `reason` is what is wrong with the answer, `words` what it says of itself, if anything.
    """

    status: int
    reason: str
    words: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Nothing answered."""

    reason: str


Outcome = Answered | Unsigned | Unreachable


class Manager:
    """The manager, as a recipient. For one thread."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection to it."""
        self._connection = connection

    @property
    def address(self) -> str | None:
        """Its IP address, None while unknown."""
        return self._connection.address

    def deliver(self, report: bytes, nonce: str, ring: Ring) -> Outcome:
        """Post a sealed report; `nonce` is the one in it."""
        return self._post(UPDATES, report, nonce, ring)

    def register(self, registration: bytes, nonce: str, ring: Ring) -> Outcome:
        """Post a sealed registration; `nonce` is the one in it."""
        return self._post(REGISTER, registration, nonce, ring)

    def _post(self, path: str, body: bytes, nonce: str, ring: Ring) -> Outcome:
        try:
            status, answer, _ = self._connection.post(path, body)
        except UnreachableError as error:
            return Unreachable(str(error))
        try:
            return Answered(verdict.unseal(answer, ring, nonce))
        except Refusal as error:
            return Unsigned(status, error.detail, unsigned_words(answer))
