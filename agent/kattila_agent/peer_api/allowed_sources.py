"""The source addresses whose requests the peer API answers.

Every request needs a valid MAC as well; this check turns strangers away before that.
"""

from __future__ import annotations

import ipaddress

from kattila_agent.config import Network
from kattila_agent.sampling.measurement import Measurement
from kattila_protocol.report import Telemetry

# The shortest prefix that counts as a network behind a tunnel, by IP version.
_MIN_PREFIX_LENGTH = {4: 8, 6: 16}

_Index = dict[tuple[int, int], set[int]]


class AllowedSources:
    """The networks from which requests are answered. Safe for several threads."""

    def __init__(self, configured: tuple[Network, ...]) -> None:
        """Take the networks of the settings."""
        self._configured = configured
        self._known: tuple[Measurement | None, _Index] = (None, _index(configured))

    def includes(self, source: str, latest: Measurement | None) -> bool:
        """Return whether a source is loopback, configured, or in a tunnel of `latest`."""
        address = ipaddress.ip_address(source)
        if address.is_loopback:
            return True
        measurement, index = self._known
        if latest is not None and latest is not measurement:
            index = _index((*self._configured, *tunnel_networks(latest.telemetry)))
            self._known = latest, index
        number, bits, version = int(address), address.max_prefixlen, address.version
        return any(number >> (bits - length) in index[version, length] for family, length in index if family == version)


def _index(networks: tuple[Network, ...]) -> _Index:
    """Return the network numbers by IP version and prefix length.

    Each connection is looked up, and there may be thousands of AllowedIPs, but they have few different lengths.
    """
    index: _Index = {}
    for network in networks:
        number = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
        index.setdefault((network.version, network.prefixlen), set()).add(number)
    return index


def tunnel_networks(telemetry: Telemetry) -> tuple[Network, ...]:
    """Return the own subnets of WireGuard tunnels and the AllowedIPs of their peers.

    Default routes and their halves and quarters are left out: they say where packets go, but not which hosts exist.
    """
    names = {interface.name for interface in telemetry.wireguard}
    own = [prefix for interface in telemetry.interfaces if interface.name in names for prefix in interface.addresses]
    allowed = [prefix for interface in telemetry.wireguard for peer in interface.peers for prefix in peer.allowed_ips]
    networks = {ipaddress.ip_network(prefix, strict=False) for prefix in (*own, *allowed)}
    return tuple(network for network in networks if network.prefixlen >= _MIN_PREFIX_LENGTH[network.version])
