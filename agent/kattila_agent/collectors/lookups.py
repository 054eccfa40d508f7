"""Route lookups, as `ip route get` makes them: how outer packets of tunnels and reports to the manager leave the node.

They need no privilege.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from kattila_agent.collectors import link_table, routes
from kattila_agent.collectors.link_table import Link, LinkSummary
from kattila_agent.collectors.netlink import notation, transport
from kattila_agent.collectors.netlink.codecs.rtnetlink import ROUTE
from kattila_agent.collectors.netlink.transport import NetlinkChannel, Refused
from kattila_protocol.report import Lookup, Telemetry, Tunnel, WireguardInterface

# linux/rtnetlink.h: RTM_F_LOOKUP_TABLE
_LOOKUP_TABLE = 0x1000
# RTA_CACHEINFO, with a length and a type that are always the same.
_CACHEINFO = ROUTE.encode(("RTA_CACHEINFO", {}))[ROUTE.size :]
_INET = bytes((socket.AF_INET,))
# fe80::/10
_LINK_LOCAL = ("fe8", "fe9", "fea", "feb")


@dataclass(frozen=True, slots=True)
class RouteQuery:
    """A route lookup for the IP address `destination`.

    `source` is the address that the packets are bound to and `link` the interface, None where the kernel chooses. For a
    link-local destination, `link` is the interface that it is behind. Rules and next hops may depend on the ports: with
    a `dport` the packets are UDP, or TCP to the manager; `sport` is None where each flow has another one.
    """

    purpose: str
    tunnel: str | None
    destination: str
    fwmark: int = 0
    source: str | None = None
    link: str | None = None
    sport: int | None = None
    dport: int | None = None


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """The RTM_NEWROUTE that answers a query, or None and the kernel's error."""

    query: RouteQuery
    body: bytes | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LookupReadings:
    """The answers, and all links by index."""

    answers: tuple[RouteAnswer, ...]
    links: Mapping[int, LinkSummary]


class _Route(NamedTuple):
    """What an answer contains: the index of the outgoing link, and the rest as in a Lookup."""

    oif: int | None
    gateway: str | None
    source: str | None
    mtu: int | None
    table: int


def read(found: Telemetry, manager_address: str | None, manager_port: int | None) -> LookupReadings:
    """Look up the routes to all tunnel ends in the telemetry, and to the manager.

    Raises:
        OSError: the kernel does not answer.
        ValueError: an address is not one, or an answer is malformed.
    """
    # Read again: an endpoint may be behind a link that was made after the interfaces were read.
    links = link_table.read_by_index(link_table.summary)
    return look_up(queries(found, manager_address, manager_port, _read_moved(found, links)), links)


def queries(
    found: Telemetry, manager_address: str | None, manager_port: int | None = None, moved: Collection[str] = ()
) -> tuple[RouteQuery, ...]:
    """Return the lookups to make: each WireGuard endpoint of an interface, each tunnel's remote ends, and the manager.

    `moved` are tunnels that were made in another network namespace, where their packets still leave.

    Raises:
        ValueError: an endpoint is malformed.
    """
    queried: dict[RouteQuery, None] = {}
    for interface in found.wireguard:
        for peer in interface.peers:
            if peer.endpoint is not None:
                queried[_to_endpoint(interface, peer.endpoint)] = None
    for tunnel in found.tunnels:
        for remote in () if tunnel.interface in moved else (tunnel.remote, *tunnel.remotes):
            if remote is not None:
                queried[_to_remote(tunnel, remote)] = None
    if manager_address is not None:
        host, _, zone = manager_address.partition("%")
        queried[RouteQuery("manager", None, host, link=zone or None, dport=manager_port)] = None
    return tuple(queried)


def look_up(queried: Iterable[RouteQuery], links: Mapping[int, LinkSummary]) -> LookupReadings:
    """Return the kernel's answers to these queries (RTM_GETROUTE), refusals included. `links` are all links.

    Raises:
        OSError: the kernel does not answer.
        ValueError: a destination is not an IP address, or an answer is malformed.
    """
    indexes = {link.name: index for index, link in links.items()}
    with transport.opened() as channel:
        return LookupReadings(tuple(_answer(channel, query, indexes) for query in queried), links)


def parse(readings: LookupReadings) -> tuple[Lookup, ...]:
    """Return the lookups without repetition; a route without its own MTU has that of its link.

    Raises:
        ValueError: a message is malformed.
    """
    # Peers behind one address differ in their port, which rarely changes the answer.
    return tuple(dict.fromkeys(_lookup(answer, readings.links) for answer in readings.answers))


def _read_moved(found: Telemetry, links: Mapping[int, LinkSummary]) -> set[str]:
    """Return the tunnels made in another network namespace; reads those that are not among the interfaces."""
    moved = {interface.name for interface in found.interfaces if interface.link_netnsid is not None}
    others = {tunnel.interface for tunnel in found.tunnels} - {interface.name for interface in found.interfaces}
    if others:
        read = map(Link.of, link_table.read_each(index for index, link in links.items() if link.name in others))
        moved |= {link.name for link in read if link.message.get("IFLA_LINK_NETNSID") is not None}
    return moved


def _to_endpoint(interface: WireguardInterface, endpoint: str) -> RouteQuery:
    """Return the query for an endpoint such as "192.0.2.1:51820" or "[fe80::1%eth0]:51820"."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{endpoint!r} is not an endpoint")
    host, _, zone = host.removeprefix("[").removesuffix("]").partition("%")
    return RouteQuery(
        "wireguard",
        interface.name,
        host,
        interface.fwmark,
        link=zone or None,
        sport=interface.listen_port or None,
        dport=int(port),
    )


def _to_remote(tunnel: Tunnel, remote: str) -> RouteQuery:
    bound = (tunnel.local, tunnel.link)
    return RouteQuery("tunnel", tunnel.interface, remote, tunnel.fwmark, *bound, dport=tunnel.port)


def _answer(channel: NetlinkChannel, query: RouteQuery, indexes: Mapping[str, int]) -> RouteAnswer:
    link = query.link
    if link is None and query.destination.lower().startswith(_LINK_LOCAL):
        # The kernel would choose any interface, and wireguard-go does not report the right one.
        return RouteAnswer(query, None, "the interface of the link-local address is unknown")
    index = None if link is None else indexes.get(link, _number(link))
    if link is not None and index is None:
        return RouteAnswer(query, None, f"there is no interface {link}")
    try:
        return RouteAnswer(query, channel.request(ROUTE.request, _request(query, index)))
    except Refused as refusal:
        return RouteAnswer(query, None, refusal.strerror)


def _number(link: str) -> int | None:
    # A link that has no name here is reported by its index. A name may look like one, too.
    return int(link) if link.isdecimal() and len(link) < len("4294967296") else None


# Most peers have not moved since the last report.
@lru_cache(maxsize=4096)
def _request(query: RouteQuery, index: int | None) -> bytes:
    family, destination = notation.packed(query.destination)
    bits, source_bits = 8 * len(destination), 0
    attributes: list[tuple[str, Any]] = [("RTA_DST", query.destination)]
    # The kernel would refuse a source of the other family as malformed, not as unreachable.
    if query.source is not None and notation.packed(query.source)[0] == family:
        source_bits = bits
        attributes.append(("RTA_SRC", query.source))
    if query.fwmark:
        attributes.append(("RTA_MARK", query.fwmark))
    if index is not None:
        attributes.append(("RTA_OIF", index))
    if query.purpose != "manager":
        # Packets from the kernel or a daemon are root's. Without this, the lookup is for the agent's own user, for whom
        # a rule may exist (`ip rule … uidrange`).
        attributes.append(("RTA_UID", 0))
    # IPv6 reports the table anyway, and refuses the flag.
    flags = _LOOKUP_TABLE if family == socket.AF_INET else 0
    return ROUTE.encode(*attributes, *_ports(query), family=family, dst_len=bits, src_len=source_bits, flags=flags)


def _ports(query: RouteQuery) -> tuple[tuple[str, int], ...]:
    # The kernel only accepts ports of UDP and TCP.
    if query.dport is None:
        return ()
    protocol = socket.IPPROTO_TCP if query.purpose == "manager" else socket.IPPROTO_UDP
    there = (("RTA_IP_PROTO", int(protocol)), ("RTA_DPORT", query.dport))
    return there if query.sport is None else (*there, ("RTA_SPORT", query.sport))


def _lookup(answer: RouteAnswer, links: Mapping[int, LinkSummary]) -> Lookup:
    query = answer.query
    about = (query.purpose, query.tunnel, query.destination, query.fwmark)
    if answer.body is None:
        return Lookup(*about, None, None, None, None, None, answer.error)
    index, gateway, source, mtu, table = _route(_without_last_use(answer.body))
    link = None if index is None else links.get(index, LinkSummary(index, f"if{index}", None))
    return Lookup(
        *about,
        interface=None if link is None else link.name,
        gateway=gateway,
        # Packets that are bound to a source keep it; the kernel returns the one that it would have preferred.
        source=query.source or source,
        mtu=mtu or (None if link is None else link.mtu),
        table=table,
        error=None,
    )


def _without_last_use(body: bytes) -> bytes:
    """Return an answer without RTA_CACHEINFO, its last attribute for IPv4: it has another value in every answer."""
    at = len(body) - len(_CACHEINFO)
    return body[:at] if body[:1] == _INET and body.startswith(_CACHEINFO[:4], at) else body


# Most peers and routes have not changed since the last report.
@lru_cache(maxsize=4096)
def _route(body: bytes) -> _Route:
    found = ROUTE.decode(body)
    metrics = found.get("RTA_METRICS") or {}
    return _Route(
        oif=found.get("RTA_OIF"),
        gateway=routes.gateway(found),
        source=found.get("RTA_PREFSRC"),
        mtu=metrics.get("RTAX_MTU"),
        table=found.get("RTA_TABLE") or found.fields["table"],
    )
