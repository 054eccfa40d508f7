"""The addresses at which sibling agents may answer, according to a measurement of WireGuard. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network
from itertools import islice, zip_longest
from typing import NamedTuple

from kattila_agent.config import Network
from kattila_protocol.report import CollectorFailure, Telemetry

# An IPv4 /24, an IPv6 /120. In a larger subnet too few addresses are hosts.
MAX_SUBNET_ADDRESSES = 256
# For all subnets together. Single addresses are hosts that an operator named, so only MAX_ALLOWED_IPS limits them.
MAX_GUESSES = 512

_Address = IPv4Address | IPv6Address
_SOURCES = frozenset(("links", "wireguard"))
_BROADCAST = IPv4Address("255.255.255.255")


class Candidates(NamedTuple):
    """Addresses at which sibling agents may answer.

    If `unread` is not empty, these failures may hide others.
    """

    addresses: tuple[str, ...]
    unread: tuple[CollectorFailure, ...]


def candidates(telemetry: Telemetry) -> Candidates:
    """Return where sibling agents may answer, the most promising address first.

    The single addresses in AllowedIPs come first: those on the interface's own subnets before others, and among both
    those of peers that have ever shaken hands before others. The hosts of small subnets follow in turns, so that the
    first host of each subnet comes before the second host of any. These subnets are small AllowedIPs, and the small
    subnets of the interface itself that overlap with large AllowedIPs. Skipped are interfaces that are down, own
    addresses, network and broadcast addresses, and link-local addresses, which are useless without their link.
    """
    links = tuple(_LocalInterface(each.name, each.addresses, "UP" in each.flags) for each in telemetry.interfaces)
    tunnels = tuple(
        (each.name, tuple(_RemotePeer(peer.allowed_ips, peer.latest_handshake > 0) for peer in each.peers))
        for each in telemetry.wireguard
    )
    unread = tuple(each for each in telemetry.failures if each.collector in _SOURCES)
    return Candidates(_addresses(links, tunnels), unread)


class _LocalInterface(NamedTuple):
    """The facts about an interface that determine the candidates."""

    name: str
    addresses: tuple[str, ...]
    is_up: bool


class _RemotePeer(NamedTuple):
    """The facts about a peer that determine the candidates."""

    allowed_ips: tuple[str, ...]
    has_shaken_hands: bool


# Parsing hundreds of prefixes costs as much as reading them, and they rarely change from one report to the next.
@lru_cache(maxsize=1)
def _addresses(
    links: tuple[_LocalInterface, ...], wireguard: tuple[tuple[str, tuple[_RemotePeer, ...]], ...]
) -> tuple[str, ...]:
    by_name = {link.name: link for link in links}
    tunnels = [_WireguardTunnel.of(peers, by_name.get(name)) for name, peers in wireguard]
    own = frozenset(ip_interface(text).ip for link in links for text in link.addresses)
    prefixes = sorted((prefix for tunnel in tunnels if tunnel.is_up for prefix in tunnel.prefixes()), key=_rank)
    singles = (_spelled(each.network[0], each.tunnel, own) for each in prefixes if each.is_single)
    subnets = dict.fromkeys((each.network, each.tunnel) for each in prefixes if not each.is_single)
    guesses = _in_turns(_hosts(network, tunnel, own) for network, tunnel in subnets)
    return tuple(dict.fromkeys((*filter(None, singles), *islice(guesses, MAX_GUESSES))))


@dataclass(frozen=True, eq=False, slots=True)
class _WireguardTunnel:
    """A WireGuard interface with the subnets of the addresses on it."""

    peers: tuple[_RemotePeer, ...]
    subnets: tuple[Network, ...]
    is_up: bool

    @classmethod
    def of(cls, peers: tuple[_RemotePeer, ...], link: _LocalInterface | None) -> _WireguardTunnel:
        # An interface that was cut from the measurement counts as up.
        subnets = tuple(ip_interface(text).network for text in link.addresses) if link else ()
        return cls(peers, subnets, link is None or link.is_up)

    def prefixes(self) -> Iterator[_Prefix]:
        for peer in self.peers:
            for text in peer.allowed_ips:
                network = ip_network(text, strict=False)
                for part in self._small_parts(network):
                    yield _Prefix(part, self, self.subnet_of(part) is not None, peer.has_shaken_hands)

    def subnet_of(self, network: Network) -> Network | None:
        """Return the own subnet that contains a network."""
        return next((each for each in self.subnets if _is_inside(network, each)), None)

    def _small_parts(self, network: Network) -> Iterable[Network]:
        if network.num_addresses <= MAX_SUBNET_ADDRESSES:
            return (network,)
        common = (each for each in self.subnets if _is_inside(each, network))
        # An own subnet of one address contains no other host.
        return (each for each in common if 1 < each.num_addresses <= MAX_SUBNET_ADDRESSES)


class _Prefix(NamedTuple):
    """A small prefix that a peer is allowed to send from."""

    network: Network
    tunnel: _WireguardTunnel
    is_on_own_subnet: bool
    has_shaken_hands: bool

    @property
    def is_single(self) -> bool:
        return self.network.num_addresses == 1


def _rank(prefix: _Prefix) -> tuple[bool, bool]:
    return not prefix.is_on_own_subnet, not prefix.has_shaken_hands


def _in_turns(subnets: Iterable[Iterator[str]]) -> Iterator[str]:
    return (host for hosts in zip_longest(*subnets) for host in hosts if host is not None)


def _hosts(network: Network, tunnel: _WireguardTunnel, own: frozenset[_Address]) -> Iterator[str]:
    # Only the whole subnet has a network and a broadcast address; in a part of it, every address is a host.
    is_part = tunnel.subnet_of(network) not in (None, network)
    return filter(None, (_spelled(each, tunnel, own) for each in (network if is_part else network.hosts())))


def _spelled(address: _Address, tunnel: _WireguardTunnel, own: frozenset[_Address]) -> str | None:
    """Return an address as text, None if no sibling can have it."""
    if address in own or address.is_loopback or address.is_multicast or address.is_unspecified:
        return None
    subnet = tunnel.subnet_of(ip_network(address))
    if subnet is not None and address in _without_host(subnet):
        return None
    if isinstance(address, IPv4Address):
        # A link-local address identifies its link only if it is in the subnet of one.
        is_lost = address == _BROADCAST or (address.is_link_local and subnet is None)
    else:
        is_lost = address.is_link_local or address.ipv4_mapped is not None
    return None if is_lost else str(address)


def _without_host(subnet: Network) -> tuple[_Address, ...]:
    """Return the addresses of a subnet that are not hosts.

    The smallest ones have none (RFC 3021, RFC 6164).
    """
    if subnet.num_addresses <= 2:
        return ()
    return (subnet[0], subnet[-1]) if subnet.version == 4 else (subnet[0],)


def _is_inside(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network) and isinstance(other, IPv4Network):
        return network.subnet_of(other)
    return isinstance(network, IPv6Network) and isinstance(other, IPv6Network) and network.subnet_of(other)
