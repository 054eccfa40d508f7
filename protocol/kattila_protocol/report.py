"""DATA of a report as typed values, in the order in which their members are encoded.

The names are those of `ip -details -json` and `wg show dump`. A member that is added later gets a default, so older
reports still parse; unknown members are skipped, so newer reports do. The types are those of `bounds`, which limit
every string, list and integer. A node may have thousands of routes, neighbours,
peers and lookups. Each of these is a row: a NamedTuple here, and in JSON a list with exactly its columns. A row never
gets another column; later additions become named members beside the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kattila_protocol.bounds import (
    FULL_BYTES,
    MAX_ENTRIES,
    S32,
    S63,
    U8,
    U16,
    U32,
    U63,
    Address,
    Counter,
    Endpoint,
    HardwareAddress,
    HostName,
    Interval,
    Labels,
    Line,
    Name,
    Nonce,
    Number,
    Offset,
    Prefix,
    PublicKey,
    Reason,
    UpTo8,
    UpTo32,
    UpTo256,
    UpTo4096,
    UpTo16384,
    UpTo32768,
    Uuid,
    Word,
    count_entries,
)
from kattila_protocol.errors import Malformed
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

    index: U32
    name: Name
    kind: Word | None
    flags: UpTo32[Word]
    operstate: Word
    mtu: U32
    address: HardwareAddress | None
    addresses: UpTo32768[Prefix]
    master: Name | None = None
    link: Name | None = None
    rx_bytes: U63 = 0
    tx_bytes: U63 = 0
    rx_errors: U63 = 0
    tx_errors: U63 = 0
    rx_dropped: U63 = 0
    tx_dropped: U63 = 0
    permanent_address: HardwareAddress | None = None
    link_index: U32 | None = None
    link_netnsid: S32 | None = None
    vlan_id: U16 | None = None
    slave_kind: Word | None = None
    slave_state: Word | None = None


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The ends of a tunnel interface other than WireGuard; None where the kernel reports no value.

    `interface` is the name and `kind` the link kind. `remote` may be a multicast group. `id` is the VNI of vxlan and
    geneve. `ikey` and `okey` are the GRE keys of incoming and outgoing packets. `port` is the destination UDP port.
    `ttl` is 0 if it is inherited. An `external` tunnel (as in `ip link`) gets its ends packet by packet from somewhere
    else, and has none itself. `link` names the interface that the tunnel is bound to. `remotes` are the additional
    default destinations in the forwarding table of a vxlan. For l2tp, `id` and `peer_id` are the two tunnel ids, and
    `ikey` and `okey` the two session ids.
    """

    interface: Name
    kind: Word
    local: Address | None = None
    remote: Address | None = None
    id: U32 | None = None
    ikey: U32 | None = None
    okey: U32 | None = None
    port: U16 | None = None
    ttl: U8 = 0
    fwmark: U32 = 0
    link: Name | None = None
    remotes: UpTo32768[Address] = ()
    peer_id: U32 | None = None
    external: bool = False


class Route(NamedTuple):
    """A row: a route of the main table, with its outgoing interface and preferred source address."""

    destination: Prefix
    gateway: Address | None
    interface: Name | None
    source: Address | None
    metric: U32
    protocol: Word
    type: Word


class PolicyRoute(NamedTuple):
    """A row: a default route of another table that a policy rule looks up; columns as in Route."""

    table: U32
    destination: Prefix
    gateway: Address | None
    interface: Name | None
    source: Address | None
    metric: U32
    protocol: Word
    type: Word


class RouteMark(NamedTuple):
    """A row: marks of a next hop in the routes (table 254) or policy routes that its own row cannot express.

    `marks` has "dead" and "linkdown" where the kernel does not use the next hop, and the encapsulation of its packets,
    such as "encap mpls". The other columns identify the row.
    """

    table: U32
    destination: Prefix
    gateway: Address | None
    interface: Name | None
    metric: U32
    marks: UpTo8[Word]


class AddressMark(NamedTuple):
    """A row: marks of an address of an interface, as in `ip address`.

    They are "secondary" (IPv4), "temporary" (IPv6), "tentative", "optimistic", "dadfailed" and "deprecated".
    """

    interface: Name
    address: Prefix
    marks: UpTo8[Word]


class AddressPeer(NamedTuple):
    """A row: the far end of a point-to-point address, as `peer` of `ip address`, both with the prefix length of `peer`.

    `address` is an entry of the interface's `addresses`.
    """

    interface: Name
    address: Prefix
    peer: Prefix


class Neighbour(NamedTuple):
    """A row: an entry of the neighbour table (ARP or NDP)."""

    destination: Address
    address: HardwareAddress | None
    interface: Name
    state: Word


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy rule: its selectors and its action.

    `family` is "inet" or "inet6". `action` is "lookup" (in `table`), "goto" (the rule of priority `goto`), "nop",
    "blackhole", "unreachable" or "prohibit". A selector that is None matches every packet. `fwmark` is compared under
    `fwmask`. `inverted` (`not`) applies to all selectors together. `suppress_prefixlength` ignores routes of the table
    with a prefix of that length or shorter. `other` lists further selectors as `ip rule` prints them, such as
    "tos 0x10" and "dport 53".
    """

    family: Word
    priority: U32
    action: Word
    table: U32
    source: Prefix | None = None
    destination: Prefix | None = None
    fwmark: U32 | None = None
    fwmask: U32 | None = None
    iif: Name | None = None
    oif: Name | None = None
    inverted: bool = False
    suppress_prefixlength: U32 | None = None
    goto: U32 | None = None
    other: UpTo32[Word] = ()


class Lookup(NamedTuple):
    """A row: the kernel's route for packets to `destination` with `fwmark`.

    `purpose` is "wireguard", "tunnel" or "manager". `tunnel` is the interface whose outer packets these are, None for
    the manager. `interface`, `gateway`, `source`, `mtu` and `table` are those of the route. All are None if the kernel
    refused the lookup; then `error` has its error text.
    """

    purpose: Word
    tunnel: Name | None
    destination: Address
    fwmark: U32
    interface: Name | None
    gateway: Address | None
    source: Address | None
    mtu: U32 | None
    table: U32 | None
    error: Reason | None


class WireguardPeer(NamedTuple):
    """A row: one interface's directed view of a key, with the names of `wg show dump`.

    `latest_handshake` is in seconds since 1970, 0 for never. `persistent_keepalive` is in seconds, 0 for off. Only the
    presence of a preshared key is reported.
    """

    public_key: PublicKey
    endpoint: Endpoint | None
    allowed_ips: UpTo32768[Prefix]
    latest_handshake: U63
    transfer_rx: U63
    transfer_tx: U63
    persistent_keepalive: U16
    has_preshared_key: bool


@dataclass(frozen=True, slots=True)
class WireguardInterface:
    """A WireGuard interface and its peers.

    `read_at` is the node's own clock when they were read (ms UTC), None if it is not known: the age of a handshake is
    the difference to its `latest_handshake`, by the same clock.
    """

    name: Name
    public_key: PublicKey
    listen_port: U16
    fwmark: U32
    peers: UpTo16384[WireguardPeer]
    read_at: Counter | None = None


@dataclass(frozen=True, slots=True)
class System:
    """The machine. `load` is the load average over 1, 5 and 15 minutes in hundredths; memory is in bytes.

    A value that could not be read is None.
    """

    hostname: HostName
    os: Line
    kernel: Word
    machine: Word
    uptime_seconds: U63 | None
    load: tuple[Counter, Counter, Counter] | None
    cpus: U32 | None
    memory_total: U63 | None
    memory_available: U63 | None
    agent_version: Word
    labels: Labels


@dataclass(frozen=True, slots=True)
class Clock:
    """The kernel's state of the clock (adjtimex(2)), and the clock offset of the last verdict in ms.

    The errors, in microseconds, come from the program that disciplines the clock; 16 seconds mean unknown.
    """

    synchronised: bool
    estimated_error_us: S63
    maximum_error_us: S63
    clock_offset: Offset | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """A truncated list: `kept` entries of `of` are reported (None: the total was not counted).

    `what` is the name of the list in the report. `where` is the interface or public key that the list belongs to. An
    empty `where` means that there is only one such list, or that this is the sum over several.
    """

    what: Word
    kept: Counter
    of: Counter | None
    where: Name = ""


@dataclass(frozen=True, slots=True)
class CollectorRun:
    """How long a collector took, in microseconds."""

    collector: Word
    duration_us: Counter


@dataclass(frozen=True, slots=True)
class CollectorFailure:
    """A collector that failed: its data is unknown, not absent."""

    collector: Word
    reason: Reason


@dataclass(frozen=True, slots=True)
class Spool:
    """The undelivered samples on the node's disk, without this one: their number and total bytes.

    `dropped` counts the samples dropped since the state folder was created: too old, too many, no space, damaged, or
    refused for good. `oldest_sampled_at` (ms UTC, by the clock at that time) is when the oldest one was measured.
    """

    waiting: Counter
    bytes: Counter
    dropped: Counter
    oldest_sampled_at: Counter | None = None


class HeldKey(NamedTuple):
    """A row: the fingerprint of a key that the agent holds, and its role: "current", "previous" or "next"."""

    fingerprint: Word
    role: Word


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Everything that one measurement found.

    `interval_seconds` is the agent's report interval. `since_boot_ms` is the reading of the clock that counts from the
    boot (CLOCK_BOOTTIME), when the measurement began. `keys` are the keys with which the agent verifies and signs.
    `neighbours_confirmed` has, for each row of `neighbours`, the same clock in whole seconds when the kernel last
    confirmed it (as in `ip -statistics neighbour`), None if it never was. A time does not change between reports, as an
    age would, so the manager stores it in fewer bytes.
    """

    system: System | None
    interfaces: UpTo4096[Interface] = ()
    routes: UpTo16384[Route] = ()
    neighbours: UpTo16384[Neighbour] = ()
    wireguard: UpTo4096[WireguardInterface] = ()
    failures: UpTo256[CollectorFailure] = ()
    tunnels: UpTo4096[Tunnel] = ()
    rules: UpTo4096[Rule] = ()
    lookups: UpTo16384[Lookup] = ()
    clock: Clock | None = None
    cuts: UpTo256[Cut] = ()
    runs: UpTo32[CollectorRun] = ()
    policy_routes: UpTo16384[PolicyRoute] = ()
    spool: Spool | None = None
    route_marks: UpTo16384[RouteMark] = ()
    address_marks: UpTo16384[AddressMark] = ()
    interval_seconds: Interval | None = None
    since_boot_ms: Counter | None = None
    keys: UpTo8[HeldKey] = ()
    address_peers: UpTo16384[AddressPeer] = ()
    neighbours_confirmed: UpTo16384[Counter | None] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """DATA of a report: the sender, the numbers of measurement and message, their times, and the telemetry.

    `sample` numbers the measurement and `tick` the message. `timestamp` is when the message was signed and `sampled_at`
    when the sample was measured, both in ms UTC. `boot_id` is the kernel's.
    """

    agent_id: Uuid
    sample: Number
    tick: Number
    nonce: Nonce
    timestamp: Counter
    sampled_at: Counter
    boot_id: Uuid
    telemetry: Telemetry

    def check(self, size: int | None = None) -> Report:
        """Return the report itself; `size` is that of its DATA in bytes, which saves counting in small reports.

        Raises:
            Malformed: one of the members that the protocol uses is out of bounds, or the lists have too many entries.
        """
        checked_id(self.agent_id, "agent_id")
        checked_counter(self.sample, "sample", minimum=1)
        checked_counter(self.tick, "tick", minimum=1)
        checked_nonce(self.nonce)
        checked_counter(self.timestamp, "timestamp")
        checked_counter(self.sampled_at, "sampled_at")
        checked_id(self.boot_id, "boot_id")
        may_be_full = size is None or size > FULL_BYTES
        if may_be_full and (entries := count_entries([self.telemetry], Telemetry)) > MAX_ENTRIES:
            raise Malformed(f"the lists have {entries} entries together; the limit is {MAX_ENTRIES}")
        return self
