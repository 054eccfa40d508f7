"""From pieces as they arrive to the interfaces that a report tells, within bounds and in one order.

May live here: joining, counting and cutting. Not here: where the pieces come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from kattila_agent.collectors.bounds import Bounded, cut, shares
from kattila_protocol.report import Cut, WireguardInterface, WireguardPeer


class VanishedError(Exception):
    """The interface was there a moment ago and is no longer: no failure."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many peers, and how many AllowedIPs of them, a report tells; each of all interfaces together."""

    peers: int = 1_000
    allowed_ips: int = 5_000


@dataclass(slots=True)
class Peer:
    """One peer while its pieces arrive; None stands for what was not said yet."""

    public_key: str
    endpoint: str | None = None
    latest_handshake: int | None = None
    transfer_rx: int | None = None
    transfer_tx: int | None = None
    persistent_keepalive: int | None = None
    has_preshared_key: bool | None = None
    allowed_ips: list[str] = field(default_factory=list)
    allowed_ips_count: int = 0

    def told(self, allowed_ips: int) -> WireguardPeer:
        """Return the row with that many AllowedIPs; raises ValueError if a column was never said."""
        return WireguardPeer(
            self.public_key,
            self.endpoint,
            tuple(self.allowed_ips[:allowed_ips]),
            _said(self.latest_handshake, "latest_handshake"),
            _said(self.transfer_rx, "transfer_rx"),
            _said(self.transfer_tx, "transfer_tx"),
            _said(self.persistent_keepalive, "persistent_keepalive"),
            bool(_said(self.has_preshared_key, "has_preshared_key")),
        )


class Gathering:
    """One interface while its pieces arrive.

    Keeps at most twice as many peers as a report tells: those whose keys come first, so that a source without an order
    (wireguard-go) tells the same ones every time.
    """

    def __init__(self, name: str, limits: Limits) -> None:
        """Begin an interface without peers."""
        self.name = name
        self.public_key = ""
        self.listen_port: int | None = None
        self.fwmark: int | None = None
        self.peer_count = 0
        self._limits = limits
        self._peers: dict[str, Peer] = {}
        self._last: Peer | None = None

    def begin(self, public_key: str) -> Peer:
        """Begin a peer and return it; raises ValueError if the interface has it already."""
        if public_key in self._peers:
            raise ValueError("a peer stands twice")
        if len(self._peers) >= 2 * self._limits.peers:
            self._drop_last_keys()
        self.peer_count += 1
        self._last = self._peers[public_key] = Peer(public_key)
        return self._last

    def begin_or_join(self, public_key: str) -> Peer:
        """Return the last peer if it has this key, else begin one.

        The kernel splits a peer whose AllowedIPs do not fit into one message: the next message begins with its key and
        the rest of them (linux/wireguard.h, WG_CMD_GET_DEVICE).
        """
        if self._last is not None and self._last.public_key == public_key:
            return self._last
        return self.begin(public_key)

    def allow(self, peer: Peer, prefixes: Iterable[str], count: int) -> None:
        """Add AllowedIPs, `count` of them, of which only those within the limit are taken."""
        room = self._limits.allowed_ips - len(peer.allowed_ips)
        peer.allowed_ips_count += count
        peer.allowed_ips.extend(islice(prefixes, room))

    def sorted_peers(self) -> list[Peer]:
        """Return what is kept, by public key."""
        return [self._peers[key] for key in sorted(self._peers)]

    def check(self) -> None:
        """Raise ValueError if something was never said that every interface and peer has."""
        _said(self.listen_port, "listen_port")
        _said(self.fwmark, "fwmark")
        for peer in self._peers.values():
            peer.told(0)

    def _drop_last_keys(self) -> None:
        for key in sorted(self._peers)[self._limits.peers :]:
            del self._peers[key]


def told(gathered: Sequence[Gathering], limits: Limits) -> Bounded[WireguardInterface]:
    """Return what a report tells of these interfaces, and what it does not; peers by public key.

    Raises:
        ValueError: as `Gathering.check`.
    """
    granted = shares(limits.peers, [one.peer_count for one in gathered])
    kept = [one.sorted_peers()[:most] for one, most in zip(gathered, granted, strict=True)]
    prefixes = iter(shares(limits.allowed_ips, [peer.allowed_ips_count for peers in kept for peer in peers]))
    rows = [[peer.told(next(prefixes)) for peer in peers] for peers in kept]
    interfaces = tuple(_told(one, peers) for one, peers in zip(gathered, rows, strict=True))
    return Bounded(interfaces, tuple(_cuts(gathered, kept, rows)))


def whole_number(digits: bytes, most: int, name: str) -> int:
    """Read a decimal number from 0 to `most`; raises ValueError, which names the field and shows nothing."""
    if digits.isdigit() and len(digits) <= 20 and int(digits) <= most:
        return int(digits)
    raise ValueError(f"{name} is no number from 0 to {most}")


def _told(one: Gathering, peers: list[WireguardPeer]) -> WireguardInterface:
    return WireguardInterface(
        name=one.name,
        public_key=one.public_key,
        listen_port=_said(one.listen_port, "listen_port"),
        fwmark=_said(one.fwmark, "fwmark"),
        peers=tuple(peers),
    )


def _cuts(gathered: Sequence[Gathering], kept: list[list[Peer]], rows: list[list[WireguardPeer]]) -> Iterator[Cut]:
    for one, peers, told_of in zip(gathered, kept, rows, strict=True):
        yield from cut("peers", len(told_of), one.peer_count, one.name)
        for peer, row in zip(peers, told_of, strict=True):
            yield from cut("allowed_ips", len(row.allowed_ips), peer.allowed_ips_count, peer.public_key)


def _said(value: int | None, name: str) -> int:
    if value is None:
        raise ValueError(f"{name} is missing")
    return value
