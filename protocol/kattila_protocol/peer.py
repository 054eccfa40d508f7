"""The query of one agent to another, and the answer.

May live here: their members and how they are signed. Not here: whom to ask (the agent's discovery).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kattila_protocol import message
from kattila_protocol.errors import BadSignature, Malformed
from kattila_protocol.freshness import check_skew
from kattila_protocol.members import build
from kattila_protocol.names import checked_counter, checked_id, checked_nonce
from kattila_protocol.report import Interface, Route
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose

# Enough for a neighbour to see what it shares with a node.
MAX_SHOWN = 200


@dataclass(frozen=True, slots=True)
class PeerQuery:
    """Who asks, at which address (`to`, as text without a port: the asked agent's id is not known yet), and when."""

    agent_id: str
    to: str
    nonce: str
    timestamp: int

    def parameters(self, key: Key) -> dict[str, str]:
        """Return the parameters of GET /status/peer, the MAC among them."""
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
    """Who answers, how many hops it is from the manager (0: reaches it itself, None: not at all), and by whom.

    `nonce` is the query's. `next_hop` is the id of the agent that its own reports go to, None for the manager. Of
    `interfaces` and `routes` there are the first MAX_SHOWN each.
    """

    agent_id: str
    hostname: str
    distance: int | None
    next_hop: str | None
    interfaces: tuple[Interface, ...]
    routes: tuple[Route, ...]
    nonce: str


def read_query(
    parameters: Mapping[str, str], ring: Ring, own_addresses: frozenset[str], now: int
) -> tuple[PeerQuery, Key]:
    """Check the parameters of GET /status/peer; also return the key that signed them, which signs the answer.

    Raises:
        Malformed: a parameter is missing or not of its shape.
        NoKey, BadSignature: not signed by a key of the ring, or addressed to another node.
        ClockSkew: see `check_skew`.
    """
    timestamp = parameters.get("timestamp", "")
    query = PeerQuery(
        agent_id=checked_id(parameters.get("agent_id"), "agent_id"),
        to=parameters.get("to", ""),
        nonce=checked_nonce(parameters.get("nonce")),
        timestamp=checked_counter(_decimal(timestamp), "timestamp"),
    )
    if not query.to.isascii():
        raise Malformed("to is not an address")
    key = ring.verify(Purpose.PEER, query._message(), parameters.get("hmac", ""))
    if query.to not in own_addresses:
        raise BadSignature("the query is addressed to another node")
    check_skew(query.timestamp, now)
    return query, key


def seal_answer(answer: PeerAnswer, key: Key) -> bytes:
    """Sign an answer."""
    return message.seal(Purpose.VERDICT, key, answer)


def unseal_answer(body: bytes, ring: Ring, nonce: str) -> PeerAnswer:
    """Read the answer to the query that had this nonce.

    Raises:
        Malformed: not an answer, one to another query, or one that shows more than 200 interfaces or routes.
        TooLarge, NoKey, BadSignature: see `message.unseal`.
    """
    members, _ = message.unseal(Purpose.VERDICT, ring, body)
    if members.get("nonce") != nonce:
        raise Malformed("this is no answer to the query")
    return _checked(build(PeerAnswer, members))


def _checked(answer: PeerAnswer) -> PeerAnswer:
    checked_id(answer.agent_id, "agent_id")
    if answer.distance is not None:
        checked_counter(answer.distance, "distance")
    if answer.next_hop is not None:
        checked_id(answer.next_hop, "next_hop")
    if max(len(answer.interfaces), len(answer.routes)) > MAX_SHOWN:
        raise Malformed(f"more than {MAX_SHOWN} interfaces or routes")
    return answer


def _decimal(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 16 else None
