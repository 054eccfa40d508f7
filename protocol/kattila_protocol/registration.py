"""First contact: an agent proposes its id, the manager binds it or issues another (answered by a verdict).

May live here: the request's members. Not here: who holds which id (the manager's identity.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from kattila_protocol import message
from kattila_protocol.errors import BadSignature, Malformed
from kattila_protocol.freshness import check_skew
from kattila_protocol.names import MANAGER, checked_counter, checked_id, checked_nonce
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose

MAX_HARDWARE_ADDRESSES = 1024


@dataclass(frozen=True, slots=True)
class Registration:
    """Who asks for which id: `hardware_addresses` tell two machines apart, `boot_id` two boots of one."""

    agent_id: str
    boot_id: str
    hostname: str
    hardware_addresses: tuple[str, ...]
    nonce: str
    timestamp: int
    to: str = MANAGER


def seal(registration: Registration, key: Key) -> bytes:
    """Return the body of POST /status/register."""
    return message.seal(Purpose.REGISTER, key, registration)


def unseal(body: bytes, ring: Ring, now: int) -> tuple[Registration, Key]:
    """Read a registration that is addressed to the manager and of this time.

    Raises:
        TooLarge, Malformed, NoKey, BadSignature: see `message.unseal`.
        ClockSkew: see `check_skew`.
    """
    members, key = message.unseal(Purpose.REGISTER, ring, body)
    hostname, addresses = members.get("hostname"), members.get("hardware_addresses")
    if not isinstance(hostname, str) or not isinstance(addresses, list) or len(addresses) > MAX_HARDWARE_ADDRESSES:
        raise Malformed("hostname is not a string, or hardware_addresses no list of at most 1024")
    if not all(isinstance(address, str) for address in addresses):
        raise Malformed("hardware_addresses holds something that is not a string")
    if members.get("to") != MANAGER:
        raise BadSignature("the registration is addressed to somebody else")
    registration = Registration(
        agent_id=checked_id(members.get("agent_id"), "agent_id"),
        boot_id=checked_id(members.get("boot_id"), "boot_id"),
        hostname=hostname,
        hardware_addresses=tuple(addresses),
        nonce=checked_nonce(members.get("nonce")),
        timestamp=checked_counter(members.get("timestamp"), "timestamp"),
    )
    check_skew(registration.timestamp, now)
    return registration, key
