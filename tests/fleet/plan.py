"""The plan of the lab: machines, networks and tunnels as frozen values. Pure.

The networks form a tree. Each network has an owner, its gateway, with the first address in it. A machine's default
route leaves through its first port. Addresses follow from a network and the machine's number in it, routes from the
tree.
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
# A user on every node that may become root.
ADMIN = "admin"


@dataclass(frozen=True)
class Network:
    """A network segment with its prefixes. Its owner is the gateway of all other machines in it."""

    name: str
    owner: str
    ipv4: IPv4Network
    ipv6: IPv6Network


@dataclass(frozen=True)
class Port:
    """A machine's port in a network: its number there and its address families."""

    network: str
    number: int
    families: tuple[int, ...] = (4, 6)


@dataclass(frozen=True)
class Machine:
    """A router or the control host (both bare namespaces), or a node that boots systemd.

    ports: `eth0`, `eth1` and so on, the first with the default route; without the networks that a router owns.
    site: set for a node that gets an agent. overlay: its number in the tunnels' network. labels: the agent's labels.
    login: Ansible's user on the node; a user other than root becomes root with sudo.
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
    """A WireGuard tunnel between two machines. With keepalive, `second` is a spoke of `first` and keeps it open."""

    first: str
    second: str
    keepalive: bool = False


@dataclass(frozen=True)
class Route:
    """A route at a machine: the target network, the next machine, and the network shared with it."""

    at: str
    to: Network
    through: str
    shared: Network


@dataclass(frozen=True)
class Plan:
    """A whole lab. spokes: pairs of a spoke, which reaches the tunnels only through its hub, and the hub."""

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
        """Return the machines that boot systemd."""
        return tuple(machine for machine in self.machines if machine.boots)

    @property
    def agents(self) -> tuple[Machine, ...]:
        """Return the machines that get an agent."""
        return tuple(machine for machine in self.machines if machine.site)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(sorted({machine.site for machine in self.agents if machine.site}))

    def owned_by(self, name: str) -> tuple[Network, ...]:
        return tuple(network for network in self.networks if network.owner == name)

    def hub_of(self, name: str) -> str | None:
        return dict(self.spokes).get(name)


def addresses(plan: Plan, port: Port) -> tuple[Address, ...]:
    """Return a port's addresses, IPv4 first."""
    network = plan.network(port.network)
    both: dict[int, Address] = {4: network.ipv4[port.number], 6: network.ipv6[port.number]}
    return tuple(both[family] for family in port.families)


def underlay(plan: Plan, machine: Machine) -> tuple[Address, ...]:
    """Return a machine's addresses outside the tunnels, IPv4 first."""
    return addresses(plan, machine.ports[0])


def families(machine: Machine) -> tuple[int, ...]:
    return machine.ports[0].families if machine.ports else (4, 6)


def overlay_addresses(plan: Plan, machine: Machine) -> tuple[Address, ...]:
    """Return a machine's addresses in the tunnels; empty if it has no tunnel."""
    if machine.overlay is None:
        return ()
    return plan.overlay.ipv4[machine.overlay], plan.overlay.ipv6[machine.overlay]


def forwards(plan: Plan, machine: Machine) -> bool:
    """Return whether a machine forwards packets."""
    return bool(plan.owned_by(machine.name))


def routes(plan: Plan) -> Iterator[Route]:
    """Yield for each network the routes of all owners above it in the tree."""
    for network in plan.networks:
        machine = plan.machine(network.owner)
        while machine.ports:
            shared = plan.network(machine.ports[0].network)
            yield Route(at=shared.owner, to=network, through=machine.name, shared=shared)
            machine = plan.machine(shared.owner)


def tunnels(plan: Plan) -> tuple[Tunnel, ...]:
    """Return the tunnels: a full mesh without the spokes, and one tunnel from each spoke to its hub."""
    meshed = [machine.name for machine in plan.agents if plan.hub_of(machine.name) is None]
    mesh = tuple(Tunnel(first, second) for first, second in combinations(meshed, 2))
    return mesh + tuple(Tunnel(hub, spoke, keepalive=True) for spoke, hub in plan.spokes)


def _network(name: str, owner: str, ipv4: str, ipv6: str) -> Network:
    return Network(name, owner, IPv4Network(ipv4), IPv6Network(ipv6))


def _agent(name: str, port: Port, overlay: int, role: str, login: str = "root") -> Machine:
    site = name.partition("-")[0]
    labels = (("role", role), ("site", site))
    return Machine(name, (port,), boots=True, site=site, overlay=overlay, labels=labels, login=login)


# Only documentation addresses (RFC 5737, RFC 3849): packets that leak out of the lab reach no one.
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
