"""Who is near: which sources may query this node, hand it reports, and reset it.

May live here: the rule. A MAC is asked for in any case; this keeps strangers from even trying.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from kattila_agent.config import Network
from kattila_agent.sampling.measurement import Measurement
from kattila_protocol.report import Telemetry

# Of a prefix that tells who is there, by the version of IP.
_LEAST_LENGTH = {4: 8, 6: 16}


class Near:
    """The networks from which callers are served. Safe for several threads."""

    def __init__(self, configured: tuple[Network, ...], latest: Callable[[], Measurement | None]) -> None:
        """Take the networks of the settings, and what tells the newest measurement."""
        self._configured = configured
        self._latest = latest
        self._known: tuple[Measurement | None, tuple[Network, ...]] = (None, ())

    def includes(self, source: str) -> bool:
        """Tell whether an address is near; loopback always is."""
        address = ipaddress.ip_address(source)
        return address.is_loopback or any(address in network for network in (*self._configured, *self._tunnelled()))

    def _tunnelled(self) -> tuple[Network, ...]:
        # Read once for each measurement, and only if somebody asks.
        latest = self._latest()
        known = self._known
        if latest is not None and known[0] is not latest:
            known = self._known = (latest, tunnelled(latest.telemetry))
        return known[1]


def tunnelled(telemetry: Telemetry) -> tuple[Network, ...]:
    """Return the prefixes that a node's WireGuard tunnels lead to: their own subnets, and their peers' AllowedIPs.

    A default route is none of them, nor are its halves and quarters: they say where packets go, not who is there.
    """
    names = {interface.name for interface in telemetry.wireguard}
    own = [prefix for interface in telemetry.interfaces if interface.name in names for prefix in interface.addresses]
    allowed = [prefix for interface in telemetry.wireguard for peer in interface.peers for prefix in peer.allowed_ips]
    networks = {ipaddress.ip_network(prefix, strict=False) for prefix in (*own, *allowed)}
    return tuple(network for network in networks if network.prefixlen >= _LEAST_LENGTH[network.version])
