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


class AllowedSources:
    """The networks from which requests are answered. Safe for several threads."""

    def __init__(self, configured: tuple[Network, ...]) -> None:
        """Take the networks of the settings."""
        self._configured = configured
        self._tunnels: tuple[Measurement | None, tuple[Network, ...]] = (None, ())

    def includes(self, source: str, latest: Measurement | None) -> bool:
        """Return whether a source is loopback, configured, or in a tunnel of `latest`."""
        address = ipaddress.ip_address(source)
        if address.is_loopback:
            return True
        measurement, networks = self._tunnels
        if latest is not None and latest is not measurement:
            networks = tunnel_networks(latest.telemetry)
            self._tunnels = latest, networks
        return any(address in network for network in (*self._configured, *networks))


def tunnel_networks(telemetry: Telemetry) -> tuple[Network, ...]:
    """Return the own subnets of WireGuard tunnels and the AllowedIPs of their peers.

    Default routes and their halves and quarters are left out: they say where packets go, but not which hosts exist.
    """
    names = {interface.name for interface in telemetry.wireguard}
    own = [prefix for interface in telemetry.interfaces if interface.name in names for prefix in interface.addresses]
    allowed = [prefix for interface in telemetry.wireguard for peer in interface.peers for prefix in peer.allowed_ips]
    networks = {ipaddress.ip_network(prefix, strict=False) for prefix in (*own, *allowed)}
    return tuple(network for network in networks if network.prefixlen >= _MIN_PREFIX_LENGTH[network.version])
