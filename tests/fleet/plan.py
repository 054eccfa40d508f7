"""What the lab is: machines, networks, tunnels, as frozen values. Nothing here touches the system.

The networks form a tree. Each has an owner, which is its gateway and has the first address in it; a machine's first
port is its way out. All addresses follow from a network and the machine's number in it, all routes from the tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import combinations

Address = IPv4Address | IPv6Address
OWNERS_NUMBER = 1
LISTEN_PORT = 51820
KEEPALIVE_SECONDS = 25
# Somebody who is on every node, and may become root there.
ADMIN = "admin"


@dataclass(frozen=True)
class Network:
    """One segment, with its prefixes; its owner is the gateway of all others in it."""

    name: str
    owner: str
    ipv4: IPv4Network
    ipv6: IPv6Network


@dataclass(frozen=True)
class Port:
    """A machine's place in a network: its number there, and which families it speaks."""

    network: str
    number: int
    families: tuple[int, ...] = (4, 6)


@dataclass(frozen=True)
class Machine:
    """A router (a bare namespace), the control host (likewise), or a node, which boots systemd.

    ports: the first is the way out; `eth0`, `eth1` and so on. A router's own networks are not among them.
    site: of a node that gets an agent. overlay: its number in the tunnels' network. labels: what is told of it.
    login: who Ansible is there; whoever is not root becomes it by sudo.
    """

    name: str
    ports: tuple[Port, ...] = ()
    boots: bool = False
    site: str | None = None
    overlay: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    login: str = "root"


@dataclass(frozen=True)
class Tunnel:
    """A WireGuard tunnel between two machines; with keepalive, `second` is a spoke of `first` and keeps it open."""

    first: str
    second: str
    keepalive: bool = False


@dataclass(frozen=True)
class Route:
    """At a machine, the way to a network: the machine that leads there, and the network shared with it."""

    at: str
    to: Network
    through: str
    shared: Network


@dataclass(frozen=True)
class Plan:
    """A whole lab. spokes: who reaches the tunnels only through a hub, and which hub."""

    zone: str
    key_record: str
    networks: tuple[Network, ...]
    machines: tuple[Machine, ...]
    overlay: Network
    spokes: tuple[tuple[str, str], ...]
    resolver: str
    other_resolver: Port
    manager: str
    control: str

    def machine(self, name: str) -> Machine:
        return next(machine for machine in self.machines if machine.name == name)

    def network(self, name: str) -> Network:
        return next(network for network in self.networks if network.name == name)

    @property
    def nodes(self) -> tuple[Machine, ...]:
        """Those that boot."""
        return tuple(machine for machine in self.machines if machine.boots)

    @property
    def agents(self) -> tuple[Machine, ...]:
        """Those that get an agent."""
        return tuple(machine for machine in self.machines if machine.site)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(sorted({machine.site for machine in self.agents if machine.site}))

    def owned_by(self, name: str) -> tuple[Network, ...]:
        return tuple(network for network in self.networks if network.owner == name)

    def hub_of(self, name: str) -> str | None:
        return dict(self.spokes).get(name)


def addresses(plan: Plan, port: Port) -> tuple[Address, ...]:
    """A port's addresses, IPv4 first."""
    network = plan.network(port.network)
    both: dict[int, Address] = {4: network.ipv4[port.number], 6: network.ipv6[port.number]}
    return tuple(both[family] for family in port.families)


def underlay(plan: Plan, machine: Machine) -> tuple[Address, ...]:
    """The addresses that a machine is reached at, outside the tunnels, IPv4 first."""
    return addresses(plan, machine.ports[0])


def families(machine: Machine) -> tuple[int, ...]:
    return machine.ports[0].families if machine.ports else (4, 6)


def overlay_addresses(plan: Plan, machine: Machine) -> tuple[Address, ...]:
    """The addresses of a machine in the tunnels; none if it has no tunnel."""
    if machine.overlay is None:
        return ()
    return plan.overlay.ipv4[machine.overlay], plan.overlay.ipv6[machine.overlay]


def forwards(plan: Plan, machine: Machine) -> bool:
    """Whether it passes on packets of others."""
    return bool(plan.owned_by(machine.name))


def routes(plan: Plan) -> Iterator[Route]:
    """From each network up the tree: every owner above it has to know which machine leads there."""
    for network in plan.networks:
        machine = plan.machine(network.owner)
        while machine.ports:
            shared = plan.network(machine.ports[0].network)
            yield Route(at=shared.owner, to=network, through=machine.name, shared=shared)
            machine = plan.machine(shared.owner)


def tunnels(plan: Plan) -> tuple[Tunnel, ...]:
    """A mesh of all that are no spokes, and one tunnel from each spoke to its hub."""
    meshed = [machine.name for machine in plan.agents if plan.hub_of(machine.name) is None]
    mesh = tuple(Tunnel(first, second) for first, second in combinations(meshed, 2))
    return mesh + tuple(Tunnel(hub, spoke, keepalive=True) for spoke, hub in plan.spokes)


def _network(name: str, owner: str, ipv4: str, ipv6: str) -> Network:
    return Network(name, owner, IPv4Network(ipv4), IPv6Network(ipv6))


def _agent(name: str, port: Port, overlay: int, role: str, login: str = "root") -> Machine:
    site = name.partition("-")[0]
    labels = (("role", role), ("site", site))
    return Machine(name, (port,), boots=True, site=site, overlay=overlay, labels=labels, login=login)


# Addresses for documentation only (RFC 5737, RFC 3849): whatever leaks out of the lab leads nowhere.
LAB = Plan(
    zone="fleet.example",
    key_record="kattila.fleet.example",
    networks=(
        _network("operations", "internet", "203.0.113.0/26", "2001:db8:0:1::/64"),
        _network("north-uplink", "internet", "203.0.113.64/29", "2001:db8:0:2::/64"),
        _network("south-uplink", "internet", "203.0.113.72/29", "2001:db8:0:3::/64"),
        _network("north", "north-router", "198.51.100.0/26", "2001:db8:1:1::/64"),
        _network("north-private", "north-hub", "198.51.100.128/28", "2001:db8:1:2::/64"),
        _network("south", "south-router", "192.0.2.0/26", "2001:db8:2:1::/64"),
    ),
    machines=(
        Machine("internet"),
        Machine("north-router", (Port("north-uplink", 2),)),
        Machine("south-router", (Port("south-uplink", 2),)),
        Machine("control", (Port("operations", 20),)),
        Machine("dns", (Port("operations", 53),), boots=True),
        Machine("manager", (Port("operations", 10),), boots=True, login=ADMIN),
        _agent("north-hub", Port("north", 11), overlay=11, role="hub"),
        _agent("north-db", Port("north", 12), overlay=12, role="member"),
        _agent("north-spoke", Port("north-private", 2), overlay=13, role="spoke"),
        _agent("south-web", Port("south", 21), overlay=21, role="member", login=ADMIN),
        _agent("south-db", Port("south", 22), overlay=22, role="member"),
        _agent("south-six", Port("south", 23, families=(6,)), overlay=23, role="member"),
    ),
    overlay=_network("wg0", "", "203.0.113.128/26", "2001:db8:9::/64"),
    spokes=(("north-spoke", "north-hub"),),
    resolver="dns",
    other_resolver=Port("operations", 54),
    manager="manager",
    control="control",
)
