"""The query from one agent to another (GET /status/peer), and its signed answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from kattila_protocol import message
from kattila_protocol.bounds import Address, Counter, HostName, Nonce, Uuid, fits, most
from kattila_protocol.errors import BadSignature, Malformed
from kattila_protocol.freshness import check_skew
from kattila_protocol.members import build
from kattila_protocol.names import checked_counter, checked_id, checked_nonce
from kattila_protocol.report import Interface, Route
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose

# The limit of interfaces and of routes in an answer: enough to see which networks two nodes share.
MAX_LISTED = 200


@dataclass(frozen=True, slots=True)
class PeerQuery:
    """The sender's id, the IP address of the recipient (whose id the sender does not know yet), nonce and time.

    `to` is the address as text, without a port; `timestamp` is ms UTC.
    """

    agent_id: Uuid
    to: Address
    nonce: Nonce
    timestamp: Counter

    def parameters(self, key: Key) -> dict[str, str]:
        """Return the query parameters of GET /status/peer, including the MAC."""
        return {
            "agent_id": self.agent_id,
            "to": self.to,
            "nonce": self.nonce,
            "timestamp": str(self.timestamp),
            "hmac": key.sign(Purpose.PEER, self._message()),
        }

    def _message(self) -> bytes:
        return "\n".join((self.agent_id, self.to, self.nonce, str(self.timestamp))).encode()


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """The responding agent, its distance to the manager, and its first 200 interfaces and routes.

    `distance` counts relays: 0 means a direct connection to the manager, None no connection. `next_hop` is the id of
    the agent that relays its reports, None for the manager. `nonce` is that of the query.
    """

    agent_id: Uuid
    hostname: HostName
    distance: Counter | None
    next_hop: Uuid | None
    interfaces: Annotated[tuple[Interface, ...], most(MAX_LISTED)]
    routes: Annotated[tuple[Route, ...], most(MAX_LISTED)]
    nonce: Nonce


def verify_query(
    parameters: Mapping[str, str], ring: Ring, own_addresses: frozenset[str], now: int
) -> tuple[PeerQuery, Key]:
    """Parse and verify the parameters of GET /status/peer; return the query and the key that signs its answer.

    Raises:
        Malformed: a parameter is missing or invalid.
        NoKey, BadSignature: no key of the ring signed it, or `to` is not one of `own_addresses`.
        ClockSkew: see `check_skew`.
    """
    timestamp = parameters.get("timestamp", "")
    query = PeerQuery(
        agent_id=checked_id(parameters.get("agent_id"), "agent_id"),
        to=parameters.get("to", ""),
        nonce=checked_nonce(parameters.get("nonce")),
        timestamp=checked_counter(_decimal(timestamp), "timestamp"),
    )
    if not query.to.isascii() or not fits([query], PeerQuery):
        raise Malformed("to is not an address")
    key = ring.verify(Purpose.PEER, query._message(), parameters.get("hmac", ""))
    if query.to not in own_addresses:
        raise BadSignature("the query is addressed to another node")
    check_skew(query.timestamp, now)
    return query, key


def seal_answer(answer: PeerAnswer, key: Key) -> bytes:
    """Return the signed answer."""
    return message.seal(Purpose.VERDICT, key, answer)


def unseal_answer(body: bytes, ring: Ring, nonce: str) -> PeerAnswer:
    """Verify and parse the answer to the query with this nonce.

    Raises:
        Malformed: not an answer, an answer to another query, or a member is out of its bounds.
        TooLarge, NoKey, BadSignature: see `message.unseal`.
    """
    members, _ = message.unseal(Purpose.VERDICT, ring, body)
    if members.get("nonce") != nonce:
        raise Malformed("the answer has the nonce of another query")
    return _checked(build(PeerAnswer, members))


def _checked(answer: PeerAnswer) -> PeerAnswer:
    checked_id(answer.agent_id, "agent_id")
    if answer.next_hop is not None:
        checked_id(answer.next_hop, "next_hop")
    return answer


def _decimal(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 16 else None
