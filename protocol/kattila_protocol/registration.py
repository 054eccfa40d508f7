"""First contact: an agent proposes its id, the manager binds it or issues another (answered by a verdict).

May live here: the request's members, and which addresses tell machines apart. Not here: who holds which id (the
manager's identity.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kattila_protocol import message
from kattila_protocol.errors import BadSignature, Malformed
from kattila_protocol.members import build
from kattila_protocol.names import MANAGER, checked_counter, checked_id, checked_nonce
from kattila_protocol.report import Interface
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


def unseal(body: bytes, ring: Ring) -> tuple[Registration, Key]:
    """Read a registration that is addressed to the manager; the caller checks its time, and can sign a refusal then.

    Raises:
        TooLarge, Malformed, NoKey, BadSignature: see `message.unseal`; BadSignature also when `to` is somebody else.
    """
    members, key = message.unseal(Purpose.REGISTER, ring, body)
    # Its default is for those who make one: on the wire it is always there.
    if members.get("to") != MANAGER:
        raise BadSignature("the registration is addressed to somebody else")
    registration = build(Registration, members)
    checked_id(registration.agent_id, "agent_id")
    checked_id(registration.boot_id, "boot_id")
    checked_nonce(registration.nonce)
    checked_counter(registration.timestamp, "timestamp")
    if len(registration.hardware_addresses) > MAX_HARDWARE_ADDRESSES:
        raise Malformed(f"hardware_addresses has more than {MAX_HARDWARE_ADDRESSES} items")
    return registration, key


def hardware_addresses(interfaces: Iterable[Interface]) -> frozenset[str]:
    """Choose the addresses that tell machines apart: those of hardware, or of any link where there is none.

    Bridges and other virtual links may have addresses that follow from the machine id, which a clone shares.
    """
    linked = [link for link in interfaces if "LOOPBACK" not in link.flags]
    return in_one_spelling(link.address for link in linked if link.kind is None) or in_one_spelling(
        link.address for link in linked
    )


def in_one_spelling(addresses: Iterable[str | None]) -> frozenset[str]:
    """Return hardware addresses in lower case, without those that are missing or all zeros."""
    return frozenset(address.lower() for address in addresses if address and address.strip("0:"))
