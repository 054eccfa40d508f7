"""The plan of the lab is consistent. These tests boot nothing."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import combinations

import pytest

from fleet.plan import LAB, OWNERS_NUMBER, Machine, addresses, families, overlay_addresses, tunnels
from fleet.wireguard import allowed_ips, configuration

DOCUMENTATION = [ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")]
PREFIXES = [prefix for network in (*LAB.networks, LAB.overlay) for prefix in (network.ipv4, network.ipv6)]


def test_the_plan_has_at_least_six_agents_at_two_sites() -> None:
    assert len(LAB.agents) >= 6
    assert len(LAB.sites) == 2
    assert [machine.name for machine in LAB.agents if families(machine) == (6,)] == ["south-six"]


@pytest.mark.parametrize("prefix", PREFIXES, ids=str)
def test_prefixes_are_reserved_for_documentation(prefix: IPv4Network | IPv6Network) -> None:
    assert any(prefix.version == wide.version and prefix.subnet_of(wide) for wide in DOCUMENTATION)  # type: ignore[arg-type]


def test_prefixes_do_not_overlap() -> None:
    assert [pair for pair in combinations(PREFIXES, 2) if pair[0].overlaps(pair[1])] == []


def test_addresses_are_unique() -> None:
    ports = [port for machine in LAB.machines for port in machine.ports] + [LAB.other_resolver]
    used = [str(ip) for port in ports for ip in addresses(LAB, port)]
    used += [str(network.ipv4[OWNERS_NUMBER]) for network in LAB.networks]
    used += [str(ip) for machine in LAB.agents for ip in overlay_addresses(LAB, machine)]
    assert len(used) == len(set(used))


@pytest.mark.parametrize("machine", LAB.agents, ids=lambda machine: machine.name)
def test_allowed_ips_of_a_nodes_peers_do_not_overlap(machine: Machine) -> None:
    ends = [{tunnel.first, tunnel.second} for tunnel in tunnels(LAB)]
    peers = [pair - {machine.name} for pair in ends if machine.name in pair]
    prefixes = [prefix for peer in peers for prefix in allowed_ips(LAB, machine.name, *peer)]
    assert len(prefixes) == len(set(prefixes))
    text = configuration(LAB, machine.name, {agent.name: f"key of {agent.name}" for agent in LAB.agents})
    assert text.count("[Peer]") == len(peers)
