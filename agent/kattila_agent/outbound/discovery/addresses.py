"""At which addresses sibling agents may answer, from what a measurement says of WireGuard. Pure.

May live here: which addresses are worth a question, and in which order. Not here: asking (asking), or when (directory).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network
from itertools import islice, zip_longest
from typing import NamedTuple

from kattila_protocol.report import CollectorFailure, Telemetry

# An IPv4 /24, an IPv6 /120. In a larger subnet too few of many addresses are hosts.
MAX_SUBNET_ADDRESSES = 256
# All subnets together. Single addresses are hosts that somebody named: they are bounded by MAX_ALLOWED_IPS alone.
MAX_GUESSES = 512

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network
_SOURCES = frozenset(("links", "wireguard"))
_BROADCAST = IPv4Address("255.255.255.255")


def candidates(telemetry: Telemetry) -> tuple[str, ...]:
    """Return the addresses at which sibling agents may answer, the most promising first, none twice.

    First come the single addresses in AllowedIPs: those on the interface's own subnets before others, and within both
    those of peers that have ever shaken hands. Then the hosts of small subnets, in turns, so that the first host of
    each comes before the second of any: AllowedIPs that are small subnets, and of large ones what a small subnet of the
    interface's own has in common with them. Passed over are interfaces that are down, own addresses, network and
    broadcast addresses, and link-local ones, which say nothing without their link.
    """
    links = tuple(_Link(each.name, each.addresses, "UP" in each.flags) for each in telemetry.interfaces)
    tunnels = tuple(
        (each.name, tuple(_Peer(peer.allowed_ips, peer.latest_handshake > 0) for peer in each.peers))
        for each in telemetry.wireguard
    )
    return _candidates(links, tunnels)


class _Link(NamedTuple):
    """What of an interface tells whom to ask."""

    name: str
    addresses: tuple[str, ...]
    is_up: bool


class _Peer(NamedTuple):
    """What of a peer tells whom to ask."""

    allowed_ips: tuple[str, ...]
    has_shaken_hands: bool


# Taking hundreds of prefixes apart costs as much as reading them, and they mostly stay what they were a report ago.
@lru_cache(maxsize=1)
def _candidates(links: tuple[_Link, ...], wireguard: tuple[tuple[str, tuple[_Peer, ...]], ...]) -> tuple[str, ...]:
    by_name = {link.name: link for link in links}
    tunnels = [_Tunnel.of(peers, by_name.get(name)) for name, peers in wireguard]
    own = frozenset(ip_interface(text).ip for link in links for text in link.addresses)
    prefixes = sorted((prefix for tunnel in tunnels if tunnel.is_up for prefix in tunnel.prefixes()), key=_rank)
    singles = (_spelled(each.network[0], each.tunnel, own) for each in prefixes if each.is_single)
    subnets = dict.fromkeys((each.network, each.tunnel) for each in prefixes if not each.is_single)
    guesses = _in_turns(_hosts(network, tunnel, own) for network, tunnel in subnets)
    return tuple(dict.fromkeys((*filter(None, singles), *islice(guesses, MAX_GUESSES))))


def unread(telemetry: Telemetry) -> tuple[CollectorFailure, ...]:
    """Return why not all candidates may be known: what could not be read is unknown, not absent."""
    return tuple(each for each in telemetry.failures if each.collector in _SOURCES)


@dataclass(frozen=True, eq=False, slots=True)
class _Tunnel:
    """A WireGuard interface with the subnets that its own addresses are in."""

    peers: tuple[_Peer, ...]
    subnets: tuple[_Network, ...]
    is_up: bool

    @classmethod
    def of(cls, peers: tuple[_Peer, ...], link: _Link | None) -> _Tunnel:
        # One that the report was cut by is taken to be up.
        subnets = tuple(ip_interface(text).network for text in link.addresses) if link else ()
        return cls(peers, subnets, link is None or link.is_up)

    def prefixes(self) -> Iterator[_Prefix]:
        for peer in self.peers:
            for text in peer.allowed_ips:
                network = ip_network(text, strict=False)
                for part in self._small_parts(network):
                    yield _Prefix(part, self, self.subnet_of(part) is not None, peer.has_shaken_hands)

    def subnet_of(self, network: _Network) -> _Network | None:
        """Return the own subnet that a network lies in."""
        return next((each for each in self.subnets if _is_inside(network, each)), None)

    def _small_parts(self, network: _Network) -> Iterable[_Network]:
        if network.num_addresses <= MAX_SUBNET_ADDRESSES:
            return (network,)
        common = (each for each in self.subnets if _is_inside(each, network))
        # An own subnet of one address holds nobody else.
        return (each for each in common if 1 < each.num_addresses <= MAX_SUBNET_ADDRESSES)


class _Prefix(NamedTuple):
    """A small prefix that a peer is allowed to send from."""

    network: _Network
    tunnel: _Tunnel
    is_on_own_subnet: bool
    has_shaken_hands: bool

    @property
    def is_single(self) -> bool:
        return self.network.num_addresses == 1


def _rank(prefix: _Prefix) -> tuple[bool, bool]:
    return not prefix.is_on_own_subnet, not prefix.has_shaken_hands


def _in_turns(subnets: Iterable[Iterator[str]]) -> Iterator[str]:
    return (host for hosts in zip_longest(*subnets) for host in hosts if host is not None)


def _hosts(network: _Network, tunnel: _Tunnel, own: frozenset[_Address]) -> Iterator[str]:
    # Network and broadcast address are those of the link's subnet; of a part of it all addresses are hosts'.
    is_part = tunnel.subnet_of(network) not in (None, network)
    return filter(None, (_spelled(each, tunnel, own) for each in (network if is_part else network.hosts())))


def _spelled(address: _Address, tunnel: _Tunnel, own: frozenset[_Address]) -> str | None:
    """Return an address as text, None if no sibling can be reached by it."""
    if address in own or address.is_loopback or address.is_multicast or address.is_unspecified:
        return None
    subnet = tunnel.subnet_of(ip_network(address))
    if subnet is not None and address in _without_host(subnet):
        return None
    if isinstance(address, IPv4Address):
        # A link-local one says on which link it is only by the link's subnet.
        is_lost = address == _BROADCAST or (address.is_link_local and subnet is None)
    else:
        is_lost = address.is_link_local or address.ipv4_mapped is not None
    return None if is_lost else str(address)


def _without_host(subnet: _Network) -> tuple[_Address, ...]:
    """Return the addresses of a subnet that stand for all of it; the smallest have none (RFC 3021, RFC 6164)."""
    if subnet.num_addresses <= 2:
        return ()
    return (subnet[0], subnet[-1]) if subnet.version == 4 else (subnet[0],)


def _is_inside(network: _Network, other: _Network) -> bool:
    if isinstance(network, IPv4Network) and isinstance(other, IPv4Network):
        return network.subnet_of(other)
    return isinstance(network, IPv6Network) and isinstance(other, IPv6Network) and network.subnet_of(other)
