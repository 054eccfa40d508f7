"""The registration of an agent: it proposes an id, and the manager's verdict confirms it or issues another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from kattila_protocol import message
from kattila_protocol.bounds import Counter, HardwareAddress, HostName, Nonce, Uuid, Word, most
from kattila_protocol.errors import BadSignature
from kattila_protocol.members import build
from kattila_protocol.names import MANAGER, checked_counter, checked_id, checked_nonce
from kattila_protocol.report import Interface
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose

MAX_HARDWARE_ADDRESSES = 1024


@dataclass(frozen=True, slots=True)
class Registration:
    """A request for an id. `hardware_addresses` distinguish two machines, `boot_id` two boots of one machine."""

    agent_id: Uuid
    boot_id: Uuid
    hostname: HostName
    hardware_addresses: Annotated[tuple[HardwareAddress, ...], most(MAX_HARDWARE_ADDRESSES)]
    nonce: Nonce
    timestamp: Counter
    to: Word = MANAGER


def seal(registration: Registration, key: Key) -> bytes:
    """Return the request body of POST /status/register."""
    return message.seal(Purpose.REGISTER, key, registration)


def unseal(body: bytes, ring: Ring) -> tuple[Registration, Key]:
    """Verify and parse a registration; return it and the key that signed it.

    Does not check the clock skew: the caller does, because it can sign that refusal.

    Raises:
        TooLarge, Malformed, NoKey, BadSignature: see `message.unseal`; BadSignature also if `to` is not the manager.
    """
    members, key = message.unseal(Purpose.REGISTER, ring, body)
    # The default of `to` is for the sender. A received registration must contain it.
    if members.get("to") != MANAGER:
        raise BadSignature("the registration is not addressed to the manager")
    registration = build(Registration, members)
    checked_id(registration.agent_id, "agent_id")
    checked_id(registration.boot_id, "boot_id")
    checked_nonce(registration.nonce)
    checked_counter(registration.timestamp, "timestamp")
    return registration, key


def identifying_addresses(interfaces: Iterable[Interface]) -> frozenset[str]:
    """Return the hardware addresses that identify a machine, normalised.

    These are the addresses of physical interfaces, or of all interfaces if there is no physical one. Bridges and other
    virtual interfaces may derive theirs from the machine id, which a cloned machine shares.
    """
    candidates = [interface for interface in interfaces if "LOOPBACK" not in interface.flags]
    physical = normalised_addresses(interface.address for interface in candidates if interface.kind is None)
    return physical or normalised_addresses(interface.address for interface in candidates)


def all_addresses(interfaces: Iterable[Interface]) -> frozenset[str]:
    """Return the hardware addresses of all interfaces, normalised."""
    return normalised_addresses(interface.address for interface in interfaces if "LOOPBACK" not in interface.flags)


def normalised_addresses(addresses: Iterable[str | None]) -> frozenset[str]:
    """Return hardware addresses in lower case, without missing ones and those of only zeros."""
    return frozenset(address.lower() for address in addresses if address and address.strip("0:"))
