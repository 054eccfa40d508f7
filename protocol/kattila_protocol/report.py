"""DATA of a report as typed values, in the order in which their members are encoded.

The names are those of `ip -details -json` and `wg show dump`. A member that is added later gets a default, so older
reports still parse; unknown members are skipped, so newer reports do. A node may have thousands of routes, neighbours,
peers and lookups. Each of these is a row: a NamedTuple here, and in JSON a list with exactly its columns. A row never
gets another column; later additions become named members beside the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kattila_protocol.names import checked_counter, checked_id, checked_nonce


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface with its addresses and counters.

    `kind` is the kernel's link kind ("wireguard", "bridge", "veth", …), None for hardware. `flags` are those of
    `ip link`. `address` is the hardware address. `addresses` have the form "192.0.2.1/24", in the kernel's order.
    `master` and `link` name the enslaving and the underlying interface (for a veth: the other end). If the underlying
    interface is in another network namespace, `link` is None, `link_index` is its number there, and `link_netnsid`
    identifies the namespace. `slave_kind` is the role under the master ("bridge", "bond", "vrf"), `slave_state` the
    state of that port.
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
    """The ends of a tunnel interface other than WireGuard; None where the kernel reports no value.

    `interface` is the name and `kind` the link kind. `remote` may be a multicast group. `id` is the VNI of vxlan and
    geneve. `ikey` and `okey` are the GRE keys of incoming and outgoing packets. `port` is the destination UDP port.
    `ttl` is 0 if it is inherited. `link` names the interface that the tunnel is bound to. `remotes` are the additional
    default destinations in the forwarding table of a vxlan. For l2tp, `id` and `peer_id` are the two tunnel ids, and
    `ikey` and `okey` the two session ids.
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
    """A row: a route of the main table, with its outgoing interface and preferred source address."""

    destination: str
    gateway: str | None
    interface: str | None
    source: str | None
    metric: int
    protocol: str
    type: str


class PolicyRoute(NamedTuple):
    """A row: a default route of another table that a policy rule looks up; columns as in Route."""

    table: int
    destination: str
    gateway: str | None
    interface: str | None
    source: str | None
    metric: int
    protocol: str
    type: str


class RouteMark(NamedTuple):
    """A row: marks of a next hop in the routes (table 254) or policy routes that its own row cannot express.

    `marks` has "dead" and "linkdown" where the kernel does not use the next hop, and the encapsulation of its packets,
    such as "encap mpls". The other columns identify the row.
    """

    table: int
    destination: str
    gateway: str | None
    interface: str | None
    metric: int
    marks: tuple[str, ...]


class AddressMark(NamedTuple):
    """A row: marks of an address of an interface: "tentative", "optimistic", "dadfailed"."""

    interface: str
    address: str
    marks: tuple[str, ...]


class Neighbour(NamedTuple):
    """A row: an entry of the neighbour table (ARP or NDP)."""

    destination: str
    address: str | None
    interface: str
    state: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy rule: its selectors and its action.

    `family` is "inet" or "inet6". `action` is "lookup" (in `table`), "goto" (the rule of priority `goto`), "nop",
    "blackhole", "unreachable" or "prohibit". A selector that is None matches every packet. `fwmark` is compared under
    `fwmask`. `inverted` (`not`) applies to all selectors together. `suppress_prefixlength` ignores routes of the table
    with a prefix of that length or shorter. `other` lists further selectors as `ip rule` prints them, such as
    "tos 0x10" and "dport 53".
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
    """A row: the kernel's route for packets to `destination` with `fwmark`.

    `purpose` is "wireguard", "tunnel" or "manager". `tunnel` is the interface whose outer packets these are, None for
    the manager. `interface`, `gateway`, `source`, `mtu` and `table` are those of the route. All are None if the kernel
    refused the lookup; then `error` has its error text.
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
    """A row: one interface's directed view of a key, with the names of `wg show dump`.

    `latest_handshake` is in seconds since 1970, 0 for never. `persistent_keepalive` is in seconds, 0 for off. Only the
    presence of a preshared key is reported.
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
    """A WireGuard interface and its peers."""

    name: str
    public_key: str
    listen_port: int
    fwmark: int
    peers: tuple[WireguardPeer, ...]


@dataclass(frozen=True, slots=True)
class System:
    """The machine. `load` is the load average over 1, 5 and 15 minutes in hundredths; memory is in bytes.

    A value that could not be read is None.
    """

    hostname: str
    os: str
    kernel: str
    machine: str
    uptime_seconds: int | None
    load: tuple[int, int, int] | None
    cpus: int | None
    memory_total: int | None
    memory_available: int | None
    agent_version: str
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Clock:
    """The kernel's state of the clock (adjtimex(2)), and the clock offset of the last verdict in ms.

    The errors, in microseconds, come from the program that disciplines the clock; 16 seconds mean unknown.
    """

    synchronised: bool
    estimated_error_us: int
    maximum_error_us: int
    clock_offset: int | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """A truncated list: `kept` entries of `of` are reported (None: the total was not counted).

    `what` is the name of the list in the report. `where` is the interface or public key that the list belongs to. An
    empty `where` means that there is only one such list, or that this is the sum over several.
    """

    what: str
    kept: int
    of: int | None
    where: str = ""


@dataclass(frozen=True, slots=True)
class CollectorRun:
    """How long a collector took, in microseconds."""

    collector: str
    duration_us: int


@dataclass(frozen=True, slots=True)
class CollectorFailure:
    """A collector that failed: its data is unknown, not absent."""

    collector: str
    reason: str


@dataclass(frozen=True, slots=True)
class Spool:
    """The undelivered samples on the node's disk, without this one: their number and total bytes.

    `dropped` counts the samples dropped since the state folder was created: too old, too many, no space, damaged, or
    refused for good. `oldest_sampled_at` (ms UTC, by the clock at that time) is when the oldest one was measured.
    """

    waiting: int
    bytes: int
    dropped: int
    oldest_sampled_at: int | None = None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Everything that one measurement found."""

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
    route_marks: tuple[RouteMark, ...] = ()
    address_marks: tuple[AddressMark, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """DATA of a report: the sender, the numbers of measurement and message, their times, and the telemetry.

    `sample` numbers the measurement and `tick` the message. `timestamp` is when the message was signed and `sampled_at`
    when the sample was measured, both in ms UTC. `boot_id` is the kernel's.
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
        """Return the report itself; raises Malformed if one of the members that the protocol uses is out of bounds."""
        checked_id(self.agent_id, "agent_id")
        checked_counter(self.sample, "sample", minimum=1)
        checked_counter(self.tick, "tick", minimum=1)
        checked_nonce(self.nonce)
        checked_counter(self.timestamp, "timestamp")
        checked_counter(self.sampled_at, "sampled_at")
        checked_id(self.boot_id, "boot_id")
        return self
