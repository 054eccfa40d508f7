"""What a report says: DATA as typed values, in the order in which their members are encoded.

May live here: frozen values and the checks on the members that the protocol itself reads. Not here: how they are
measured (the agent's collectors) or what follows from them (the manager). The words are those of `ip -details
-json` and `wg show dump`. A member added later has a default, so that older reports still read; a member unknown
here is skipped, so that newer ones do. What a node may have thousands of (routes, neighbours, peers, lookups of their
endpoints) is a row each: a NamedTuple here, in JSON a list of exactly its columns, as in `wg show dump`. Rows never get
another column; what is to be said of them later becomes a member beside them.
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
    name the enslaving and the underlying interface (of a veth: the other end). Where that one is in another network
    namespace, `link` is None, `link_index` its number there, and `link_netnsid` tells which namespace. `slave_kind` is
    what the master takes this one for ("bridge", "bond", "vrf"), `slave_state` the state of the port.
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
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0
    permanent_address: str | None = None
    link_index: int | None = None
    link_netnsid: int | None = None
    vlan_id: int | None = None
    slave_kind: str | None = None
    slave_state: str | None = None


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What a link that carries packets inside of packets says of its ends; None where it says nothing.

    `interface` is the link's name and `kind` its kind; `remote` may be a multicast group; `id` is the VNI of vxlan and
    geneve; `ikey` and `okey` are the keys of GRE, of what comes in and of what goes out; `port` is the UDP port that it
    sends to; `ttl` is 0 where it is inherited; `link` names the interface it is bound to; `remotes` are those of a
    vxlan that stand in its forwarding table for what it knows no destination for, beside `remote`. Of l2tp,
    `id` and `peer_id` number the tunnel on both sides, and `ikey` and `okey` the session.
    """

    interface: str
    kind: str
    local: str | None = None
    remote: str | None = None
    id: int | None = None
    ikey: int | None = None
    okey: int | None = None
    port: int | None = None
    ttl: int = 0
    fwmark: int = 0
    link: str | None = None
    remotes: tuple[str, ...] = ()
    peer_id: int | None = None


class Route(NamedTuple):
    """A row: one route of the main table: destination prefix, gateway or None, outgoing interface, preferred source."""

    destination: str
    gateway: str | None
    interface: str | None
    source: str | None
    metric: int
    protocol: str
    type: str


class PolicyRoute(NamedTuple):
    """A row: a default route of a table other than main that a policy rule looks up; the rest as a route."""

    table: int
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


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy rule: what it selects and what becomes of that.

    `family` is "inet" or "inet6"; `action` is "lookup" (in `table`), "goto" (the rule of priority `goto`), "nop",
    "blackhole", "unreachable" or "prohibit". A selector that is None selects everything; `fwmark` is compared under
    `fwmask`; `inverted` (`not`) holds for all selectors together. `suppress_prefixlength` passes over the routes of the
    table that are no longer than that. `other` names the rest as `ip rule` does, one each: "tos 0x10", "dport 53".
    """

    family: str
    priority: int
    action: str
    table: int
    source: str | None = None
    destination: str | None = None
    fwmark: int | None = None
    fwmask: int | None = None
    iif: str | None = None
    oif: str | None = None
    inverted: bool = False
    suppress_prefixlength: int | None = None
    goto: int | None = None
    other: tuple[str, ...] = ()


class Lookup(NamedTuple):
    """A row: the kernel's answer to where packets to `destination` under `fwmark` go.

    `purpose` is "wireguard", "tunnel" or "manager"; `tunnel` is the interface whose outer packets these are, None for
    the manager. `interface`, `gateway`, `source`, `mtu` and `table` are the route's; all are None where the kernel
    refused, and `error` then has its words.
    """

    purpose: str
    tunnel: str | None
    destination: str
    fwmark: int
    interface: str | None
    gateway: str | None
    source: str | None
    mtu: int | None
    table: int | None
    error: str | None


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
class Clock:
    """What the kernel says of its clock (adjtimex(2)), and the manager: `clock_offset` is that of the last verdict, ms.

    The errors, in microseconds, are those of whoever disciplines the clock; 16 seconds stand for unknown.
    """

    synchronised: bool
    estimated_error_us: int
    maximum_error_us: int
    clock_offset: int | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """A list that is not whole: how many of `of` are told (None: nobody counted the rest).

    `what` is the list's name in this report; `where` the interface or public key that it belongs to, else empty: then
    there is one such list, or this is the sum of many.
    """

    what: str
    kept: int
    of: int | None
    where: str = ""


@dataclass(frozen=True, slots=True)
class CollectorRun:
    """How long a source took to read, in microseconds."""

    collector: str
    duration_us: int


@dataclass(frozen=True, slots=True)
class CollectorFailure:
    """A source that could not be read this time: what it says is unknown, not absent."""

    collector: str
    reason: str


@dataclass(frozen=True, slots=True)
class Spool:
    """What the node could not deliver yet: `waiting` samples of `bytes` on its disk, this one not among them.

    `dropped` counts those that it had to give up since its state folder began: too old, too many, no space, damaged, or
    refused for good. `oldest_sampled_at` (ms UTC, by the clock of that moment) is of the first that waits.
    """

    waiting: int
    bytes: int
    dropped: int
    oldest_sampled_at: int | None = None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """All that one measurement found."""

    system: System | None
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    wireguard: tuple[WireguardInterface, ...] = ()
    failures: tuple[CollectorFailure, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    rules: tuple[Rule, ...] = ()
    lookups: tuple[Lookup, ...] = ()
    clock: Clock | None = None
    cuts: tuple[Cut, ...] = ()
    runs: tuple[CollectorRun, ...] = ()
    policy_routes: tuple[PolicyRoute, ...] = ()
    spool: Spool | None = None


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
