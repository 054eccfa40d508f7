"""The sources that may send requests: this machine, its tunnels, and the configured networks."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from kattila_agent.peer_api.allowed_sources import AllowedSources, tunnel_networks
from kattila_agent.sampling.measurement import Measurement
from kattila_protocol.report import Interface, Telemetry, WireguardInterface, WireguardPeer
from protocol.samples import BOOT, NOW


def interface(name: str, *addresses: str) -> Interface:
    return Interface(1, name, "wireguard", ("UP",), "UNKNOWN", 1420, None, addresses)


def tunnel(name: str, *allowed_ips: str) -> WireguardInterface:
    return WireguardInterface(name, "k", 51820, 0, (WireguardPeer("p", None, allowed_ips, 0, 0, 0, 0, False),))


TELEMETRY = Telemetry(
    system=None,
    interfaces=(interface("wg0", "192.0.2.1/24", "2001:db8::1/64"), interface("eth0", "198.51.100.1/24")),
    wireguard=(tunnel("wg0", "192.0.2.9/32", "203.0.113.64/26", "0.0.0.0/0", "::/0"),),
)
MEASUREMENT = Measurement(TELEMETRY, NOW, BOOT, 0)


@pytest.mark.parametrize(
    ("source", "is_allowed"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("192.0.2.200", True),
        ("2001:db8::beef", True),
        ("203.0.113.65", True),
        ("203.0.113.1", False),
        ("198.51.100.7", False),
        ("2001:db8:0:1::1", False),
        ("8.8.8.8", False),
    ],
)
def test_which_sources_are_allowed(source: str, is_allowed: bool) -> None:
    assert AllowedSources(()).includes(source, MEASUREMENT) == is_allowed


def test_a_setting_widens_it() -> None:
    allowed = AllowedSources((ip_network("198.51.100.0/24"),))
    assert allowed.includes("198.51.100.7", None)
    assert not allowed.includes("192.0.2.200", None)


def test_what_was_measured_last_counts() -> None:
    allowed = AllowedSources(())
    assert allowed.includes("192.0.2.200", MEASUREMENT)
    later = replace(MEASUREMENT, telemetry=replace(TELEMETRY, wireguard=()))
    assert not allowed.includes("192.0.2.200", later)


@pytest.mark.parametrize("prefix", ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "8000::/1", "2000::/3"])
def test_a_default_route_or_a_part_of_one_allows_no_source(prefix: str) -> None:
    assert tunnel_networks(replace(TELEMETRY, interfaces=(), wireguard=(tunnel("wg0", prefix),))) == ()
