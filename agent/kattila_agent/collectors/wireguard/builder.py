"""Builds WireGuard interfaces piece by piece, as the readers find them, within the limits of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from kattila_agent.collectors.limits import Bounded, cut, shares
from kattila_protocol.canonical import MAX_INTEGER
from kattila_protocol.report import Cut, WireguardInterface, WireguardPeer

# The greatest value of the kernel's counters.
MAX_COUNT = 2**64 - 1


class VanishedError(Exception):
    """The interface has been removed since the links were read. This is not a failure."""


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """How many peers and AllowedIPs a report may contain, of all interfaces together."""

    peers: int
    allowed_ips: int


@dataclass(slots=True)
class PeerBuilder:
    """One peer under construction; None stands for a value that has not been read yet."""

    public_key: str
    endpoint: str | None = None
    latest_handshake: int | None = None
    transfer_rx: int | None = None
    transfer_tx: int | None = None
    persistent_keepalive: int | None = None
    has_preshared_key: bool | None = None
    allowed_ips: list[str] = field(default_factory=list)
    allowed_ips_count: int = 0

    def build(self, allowed_ips: int) -> WireguardPeer:
        """Return the peer with its first AllowedIPs; raises ValueError if a value is missing."""
        return WireguardPeer(
            self.public_key,
            self.endpoint,
            tuple(self.allowed_ips[:allowed_ips]),
            _required(self.latest_handshake, "latest_handshake"),
            _required(self.transfer_rx, "transfer_rx"),
            _required(self.transfer_tx, "transfer_tx"),
            _required(self.persistent_keepalive, "persistent_keepalive"),
            bool(_required(self.has_preshared_key, "has_preshared_key")),
        )


@dataclass(slots=True)
class InterfaceBuilder:
    """One interface under construction.

    Keeps at most twice as many peers as a report may contain: those with the lowest keys, so that a source without an
    order (wireguard-go) gives the same ones every time.
    """

    name: str
    limits: PeerLimits
    public_key: str = ""
    listen_port: int | None = None
    fwmark: int | None = None
    peer_count: int = 0
    peers: dict[str, PeerBuilder] = field(default_factory=dict)
    last: PeerBuilder | None = None
    read_at: int | None = None

    def add_peer(self, public_key: str) -> PeerBuilder:
        """Add a peer and return it; raises ValueError if the interface has it already."""
        if public_key in self.peers:
            raise ValueError("a peer is repeated")
        if len(self.peers) >= 2 * self.limits.peers:
            for key in sorted(self.peers)[self.limits.peers :]:
                del self.peers[key]
        self.peer_count += 1
        self.last = self.peers[public_key] = PeerBuilder(public_key)
        return self.last

    def continue_peer(self, public_key: str) -> PeerBuilder:
        """Return the last peer if it has this key; otherwise add one.

        The kernel splits a peer whose AllowedIPs do not fit into one message. The next message begins with its key and
        the remaining AllowedIPs (linux/wireguard.h, WG_CMD_GET_DEVICE).
        """
        if self.last is not None and self.last.public_key == public_key:
            return self.last
        return self.add_peer(public_key)

    def allow(self, peer: PeerBuilder, prefixes: Iterable[str], count: int) -> None:
        """Add `count` AllowedIPs to a peer; only those within the limit are taken from `prefixes`."""
        room = self.limits.allowed_ips - len(peer.allowed_ips)
        peer.allowed_ips_count += count
        peer.allowed_ips.extend(islice(prefixes, room))

    def check(self) -> None:
        """Raise ValueError if a value is missing that every interface or peer has."""
        _required(self.listen_port, "listen_port")
        _required(self.fwmark, "fwmark")
        for peer in self.peers.values():
            peer.build(0)


def build(builders: Sequence[InterfaceBuilder], limits: PeerLimits) -> Bounded[WireguardInterface]:
    """Return these interfaces within the limits, peers by public key, and what was cut from them.

    Raises:
        ValueError: a value is missing, see `InterfaceBuilder.check`.
    """
    granted = shares(limits.peers, [each.peer_count for each in builders])
    kept = [
        [each.peers[key] for key in sorted(each.peers)[:most]] for each, most in zip(builders, granted, strict=True)
    ]
    allowed_ips = iter(shares(limits.allowed_ips, [peer.allowed_ips_count for peers in kept for peer in peers]))
    interfaces: list[WireguardInterface] = []
    cuts: list[Cut] = []
    counts: dict[tuple[str, str], int] = {}
    for each, peers in zip(builders, kept, strict=True):
        port, fwmark = _required(each.listen_port, "listen_port"), _required(each.fwmark, "fwmark")
        rows = tuple(peer.build(next(allowed_ips)) for peer in peers)
        interfaces.append(WireguardInterface(each.name, each.public_key, port, fwmark, rows, each.read_at))
        cuts += cut("peers", len(rows), each.peer_count, each.name)
        for peer, row in zip(peers, rows, strict=True):
            if len(row.allowed_ips) < peer.allowed_ips_count:
                counts[each.name, peer.public_key] = peer.allowed_ips_count
                cuts += cut("allowed_ips", len(row.allowed_ips), peer.allowed_ips_count, peer.public_key)
    return Bounded(tuple(interfaces), tuple(cuts), allowed_ips=counts)


def parse_number(digits: bytes, most: int, name: str) -> int:
    """Return a decimal number from 0 to `most`; raises ValueError, which names the field but not its value.

    A counter may have 64 bits, one more than the protocol's integers. Beyond these it is the largest of them.
    """
    if digits.isdigit() and len(digits) <= 20 and int(digits) <= most:
        return min(int(digits), MAX_INTEGER)
    raise ValueError(f"{name} is not a number from 0 to {most}")


def _required(value: int | None, name: str) -> int:
    if value is None:
        raise ValueError(f"{name} is missing")
    return value
