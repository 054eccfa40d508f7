"""Creates agents as values, and the sealed messages that they send.

All functions are pure: the time is an argument (`now`, ms UTC), and nonces are derived from the numbers.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, replace
from itertools import pairwise

from kattila_protocol import canonical, envelope, registration
from kattila_protocol.envelope import Envelope
from kattila_protocol.names import MANAGER
from kattila_protocol.registration import Registration
from kattila_protocol.report import Interface, Report, Route, System, Telemetry
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.signing import Key

PSK = b"psk of the tests, protects nothing"
KEY = Key.from_psk(PSK)
FOREIGN_KEY = Key.from_psk(b"psk of somebody else altogether")
RING = Ring((RingEntry(KEY, first_seen_at=0),))


@dataclass(frozen=True, slots=True)
class Node:
    """A machine in one boot: the identity that its agent reports."""

    agent_id: str
    boot_id: str
    hostname: str
    hardware: tuple[str, ...]

    def rebooted(self, times: int = 1) -> Node:
        """Return the same machine after a number of reboots."""
        return replace(self, boot_id=_uuid("boot", self.boot_id, times))

    def cloned(self, number: int = 1, *, same_hardware: bool = False) -> Node:
        """Return a machine that runs a copy of the disk of this one."""
        return replace(
            self,
            boot_id=_uuid("clone", self.boot_id, number),
            hostname=f"clone-{number}-of-{self.hostname}",
            hardware=self.hardware if same_hardware else (_hardware("clone", self.boot_id, number),),
        )


def node(number: int) -> Node:
    """Return the machine with this number in its first boot."""
    return Node(_uuid("agent", number), _uuid("boot", number), f"node-{number}.example.net", (_hardware(number),))


def telemetry(sender: Node, *, seed: int = 0) -> Telemetry:
    """Return the telemetry of a small node; `seed` changes its counters."""
    links = [Interface(1, "lo", None, ("LOOPBACK", "UP"), "UNKNOWN", 65536, "00:00:00:00:00:00", ("127.0.0.1/8",))]
    links += [
        Interface(2 + i, f"eth{i}", None, ("BROADCAST", "UP"), "UP", 1500, address, (f"192.0.2.{1 + i}/24",))
        for i, address in enumerate(sender.hardware)
    ]
    return Telemetry(
        system=System(
            hostname=sender.hostname,
            os="Debian GNU/Linux 12 (bookworm)",
            kernel="6.1.0-28-amd64",
            machine="x86_64",
            uptime_seconds=1000 + seed,
            load=(seed % 300, 12, 8),
            cpus=2,
            memory_total=2_064_384_000,
            memory_available=1_532_116_992 - 4096 * (seed % 1000),
            agent_version="0.1.0",
            labels={"site": "north"},
        ),
        interfaces=tuple(links),
        routes=(Route("default", "192.0.2.254", "eth0", None, 100, "dhcp", "unicast"),),
    )


def report(
    sender: Node,
    sample: int,
    now: int,
    *,
    tick: int | None = None,
    nonce: str | None = None,
    sampled_at: int | None = None,
) -> Report:
    """Return a report signed at `now` (ms UTC); by default measured then, with a tick equal to its sample.

    A report from the spool has another tick and an earlier `sampled_at`.
    """
    number = sample if tick is None else tick
    return Report(
        agent_id=sender.agent_id,
        sample=sample,
        tick=number,
        nonce=nonce or nonce_of(sender, sample, number),
        timestamp=now,
        sampled_at=now if sampled_at is None else sampled_at,
        boot_id=sender.boot_id,
        telemetry=telemetry(sender, seed=sample),
    )


def sealed(content: Report, key: Key = KEY, recipient: str = MANAGER) -> bytes:
    """Return the request body of a report."""
    return sealed_bytes(canonical.encode(content), key, recipient)


def forwarded(content: Report, *path: str, key: Key = KEY) -> Envelope:
    """Return the envelope of a report to the last of these ids, forwarded by the relays before it."""
    parts = envelope.seal(canonical.encode(content), key, path[0])
    for relay_id, following in pairwise(path):
        parts = envelope.forward(parts, relay_id, key, following)
    return parts


def relayed(content: Report, *relays: Node, key: Key = KEY) -> bytes:
    """Return the request body of a report that these relays forwarded to the manager, in this order."""
    return forwarded(content, *(relay.agent_id for relay in relays), MANAGER, key=key).to_bytes()


def sealed_bytes(data: bytes, key: Key = KEY, recipient: str = MANAGER) -> bytes:
    """Return a request body with any bytes as DATA, correctly signed, as a PSK holder can send it."""
    return envelope.seal(data, key, recipient).to_bytes()


def body(sender: Node, sample: int, now: int, *, tick: int | None = None, nonce: str | None = None) -> bytes:
    """Return the request body of a report, see `report`."""
    return sealed(report(sender, sample, now, tick=tick, nonce=nonce))


def registering(sender: Node, now: int, *, attempt: int = 1, key: Key = KEY, to: str = MANAGER) -> bytes:
    """Return the request body of a registration; each attempt has its own nonce."""
    request = Registration(
        agent_id=sender.agent_id,
        boot_id=sender.boot_id,
        hostname=sender.hostname,
        hardware_addresses=sender.hardware,
        nonce=registration_nonce(sender, attempt),
        timestamp=now,
        to=to,
    )
    return registration.seal(request, key)


def nonce_of(sender: Node, sample: int, tick: int) -> str:
    """Return the nonce that `report` derives from these numbers."""
    return _digest("nonce", sender, sample, tick)[:32]


def registration_nonce(sender: Node, attempt: int = 1) -> str:
    """Return the nonce that `registering` derives."""
    return _digest("registration", sender, attempt)[:32]


def ring_of(*keys: Key) -> Ring:
    """Return a ring of these keys, current one first."""
    return Ring(tuple(RingEntry(key, first_seen_at=0) for key in keys))


def _hardware(*parts: object) -> str:
    # Locally administered (IEEE 802), so it does not belong to a vendor.
    return ":".join(("02", *(_digest("hardware", *parts)[i : i + 2] for i in range(0, 10, 2))))


def _uuid(*parts: object) -> str:
    return str(uuid.UUID(_digest(*parts)[:32]))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
