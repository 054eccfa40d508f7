"""What a report says: DATA as typed values, in the order in which their members are encoded.

May live here: frozen values and the checks on the members that the protocol itself reads. Not here: how they are
measured (the agent's collectors) or what follows from them (the manager). The words are those of `ip -details
-json` and `wg show dump`. A member added later has a default, so that older reports still read; a member unknown
here is skipped, so that newer ones do. What a node may have thousands of (routes, neighbours, peers) is a row each: a
NamedTuple here, in JSON a list of exactly its columns, as in `wg show dump`. Rows never get another column; what is to
be said of them later becomes a member beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kattila_protocol.names import checked_counter, checked_id, checked_nonce


@dataclass(frozen=True, slots=True)
class Interface:
    """One link with its addresses.

    `kind` is the kernel's link kind ("wireguard", "bridge", "veth", …) and None for hardware; `flags` as in
    `ip link`; `address` the hardware address; `addresses` are "192.0.2.1/24" in the kernel's order; `master` and `link`
    name the enslaving and the underlying interface.
    """

    index: int
    name: str
    kind: str | None
    flags: tuple[str, ...]
    operstate: str
    mtu: int
    address: str | None
    addresses: tuple[str, ...]
    master: str | None = None
    link: str | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0


class Route(NamedTuple):
    """A row: one route of the main table: destination prefix, gateway or None, outgoing interface, preferred source."""

    destination: str
    gateway: str | None
    interface: str | None
    source: str | None
    metric: int
    protocol: str
    type: str


class Neighbour(NamedTuple):
    """A row: one entry of the neighbour table (ARP, NDP)."""

    destination: str
    address: str | None
    interface: str
    state: str


class WireguardPeer(NamedTuple):
    """A row: one interface's directed view of a key, in the words of `wg show dump`.

    `latest_handshake` is seconds since 1970, 0 for never; `persistent_keepalive` is in seconds, 0 for off. Of a
    preshared key only its presence is told.
    """

    public_key: str
    endpoint: str | None
    allowed_ips: tuple[str, ...]
    latest_handshake: int
    transfer_rx: int
    transfer_tx: int
    persistent_keepalive: int
    has_preshared_key: bool


@dataclass(frozen=True, slots=True)
class WireguardInterface:
    """One WireGuard interface and its peers."""

    name: str
    public_key: str
    listen_port: int
    fwmark: int
    peers: tuple[WireguardPeer, ...]


@dataclass(frozen=True, slots=True)
class System:
    """The machine: `load` is the load averages over 1, 5 and 15 minutes in hundredths, memory is in bytes."""

    hostname: str
    os: str
    kernel: str
    machine: str
    uptime_seconds: int
    load: tuple[int, int, int]
    cpus: int
    memory_total: int
    memory_available: int
    agent_version: str
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class CollectorFailure:
    """A source that could not be read this time: what it says is unknown, not absent."""

    collector: str
    reason: str


@dataclass(frozen=True, slots=True)
class Telemetry:
    """All that one measurement found."""

    system: System | None
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    wireguard: tuple[WireguardInterface, ...] = ()
    failures: tuple[CollectorFailure, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """DATA: who, which measurement, which message, when, and what was found.

    `sample` numbers the measurement and `tick` the message; `timestamp` is when it was signed and `sampled_at` when it
    was measured, both ms UTC; `boot_id` is the kernel's.
    """

    agent_id: str
    sample: int
    tick: int
    nonce: str
    timestamp: int
    sampled_at: int
    boot_id: str
    telemetry: Telemetry

    def check(self) -> Report:
        """Return self; raises Malformed if a member that the protocol reads is out of its bounds."""
        checked_id(self.agent_id, "agent_id")
        checked_counter(self.sample, "sample", least=1)
        checked_counter(self.tick, "tick", least=1)
        checked_nonce(self.nonce)
        checked_counter(self.timestamp, "timestamp")
        checked_counter(self.sampled_at, "sampled_at")
        checked_id(self.boot_id, "boot_id")
        return self
