"""Turns the plan into `ip -batch` lines, one text per namespace. Pure.

All links are in namespaces of the lab, so this machine's own network is never touched. A network is a bridge at its
owner. Each other machine in it is connected to the bridge by a veth pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network

from fleet.plan import OWNERS_NUMBER, Machine, Network, Plan, Port, addresses, families, routes

Namespace = Callable[[str], str]


def batches(plan: Plan, namespace: Namespace) -> dict[str, str]:
    """Return the lines for each machine's namespace, in the order in which to run them.

    namespace: maps the name of a machine to the name of its namespace.
    """
    return {machine.name: "\n".join(_lines(plan, machine, namespace)) + "\n" for machine in _owners_first(plan)}


def _owners_first(plan: Plan) -> list[Machine]:
    """Return the machines so that owners come first, since an owner creates the links of its networks."""
    return sorted(plan.machines, key=lambda machine: _depth(plan, machine))


def _depth(plan: Plan, machine: Machine) -> int:
    if not machine.ports:
        return 0
    return 1 + _depth(plan, plan.machine(plan.network(machine.ports[0].network).owner))


def _lines(plan: Plan, machine: Machine, namespace: Namespace) -> Iterator[str]:
    yield "link set lo up"
    for number, port in enumerate(machine.ports):
        yield from _port_lines(plan, port, f"eth{number}")
    if machine.name == plan.resolver:
        yield from _port_lines(plan, plan.other_resolver, "eth0")
    for network in plan.owned_by(machine.name):
        yield from _bridge_lines(plan, network, namespace)
    if machine.ports:
        yield from _default_routes(plan, machine)
    yield from _routes_below(plan, machine)


def _port_lines(plan: Plan, port: Port, link: str) -> Iterator[str]:
    for ip in addresses(plan, port):
        yield f"address add {ip}/{_length(plan, port, ip.version)} dev {link}{_nodad(ip.version)}"
    yield f"link set {link} up"


def _length(plan: Plan, port: Port, family: int) -> int:
    return _prefix(plan.network(port.network), family).prefixlen


def _prefix(network: Network, family: int) -> IPv4Network | IPv6Network:
    return network.ipv4 if family == 4 else network.ipv6


def _nodad(family: int) -> str:
    return " nodad" if family == 6 else ""


def _bridge_lines(plan: Plan, network: Network, namespace: Namespace) -> Iterator[str]:
    bridge = network.name
    yield f"link add {bridge} type bridge forward_delay 0 mcast_snooping 0"
    for family in (4, 6):
        prefix = _prefix(network, family)
        yield f"address add {prefix[OWNERS_NUMBER]}/{prefix.prefixlen} dev {bridge}{_nodad(family)}"
    yield f"link set {bridge} up"
    for machine in plan.machines:
        for number, port in enumerate(machine.ports):
            if port.network == network.name:
                end = f"to-{machine.name}"
                yield f"link add {end} type veth peer name eth{number} netns {namespace(machine.name)}"
                yield f"link set {end} master {bridge} up"


def _default_routes(plan: Plan, machine: Machine) -> Iterator[str]:
    network = plan.network(machine.ports[0].network)
    for family in families(machine):
        yield f"route add default via {_prefix(network, family)[OWNERS_NUMBER]} dev eth0"


def _routes_below(plan: Plan, machine: Machine) -> Iterator[str]:
    for route in routes(plan):
        if route.at == machine.name:
            port = plan.machine(route.through).ports[0]
            for ip in addresses(plan, port):
                yield f"route add {_prefix(route.to, ip.version)} via {ip} dev {route.shared.name}"
