"""Which way the outer packets of tunnels and the reports to the manager leave: the kernel's own route lookup.

May live here: whom to ask for, asking, and reading the answer, as `ip route get` does. It needs no privilege. Not here:
the routes themselves (routes) and the rules that choose among tables (rules).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from kattila_agent.collectors import link_table, routes
from kattila_agent.collectors.link_table import Exit, Link
from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Attributes, Channel, Refused
from kattila_protocol.report import Lookup, Telemetry, Tunnel, WireguardInterface

# linux/rtnetlink.h
_RTM_GETROUTE = 26
_ROUTE = struct.Struct("=BBBBBBBBI")
_LOOKUP_TABLE = 0x1000
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_PREFSRC, _RTA_METRICS, _RTA_TABLE, _RTA_MARK, _RTA_UID = 1, 2, 4, 7, 8, 15, 16, 25
_RTA_IP_PROTO, _RTA_SPORT, _RTA_DPORT = 27, 28, 29
_RTAX_MTU = 2
_UINT = struct.Struct("=I")
_PORT = struct.Struct("!H")
_UDP, _TCP = bytes((socket.IPPROTO_UDP,)), bytes((socket.IPPROTO_TCP,))
# fe80::/10
_LINK_LOCAL = ("fe8", "fe9", "fea", "feb")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: `destination` is an IP address, `zone` the interface that a link-local one belongs to.

    `source` is the address that the packets are bound to, `link` the interface; None where that is left to the kernel.
    What has a `dport` is UDP, to the manager TCP; its `sport` is None where each flow has another. Rules and next
    hops are chosen by them.
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
class Answer:
    """The body of the kernel's RTM_NEWROUTE, or None and the error that it refused with, in words."""

    question: Question
    body: bytes | None
    error: str | None = None


def read_moved(found: Telemetry, exits: Mapping[int, Exit]) -> set[str]:
    """Return the tunnels that were made in another network namespace; asks for those that are told as no interface.

    Raises:
        OSError, ValueError: see `Channel.ask`.
    """
    moved = {interface.name for interface in found.interfaces if interface.link_netnsid is not None}
    others = {tunnel.interface for tunnel in found.tunnels} - {interface.name for interface in found.interfaces}
    if others:
        asked = map(Link.of, link_table.each_of(index for index, link in exits.items() if link.name in others))
        moved |= {link.name for link in asked if link_table.NETNSID in link.found}
    return moved


def questions(
    found: Telemetry, manager_address: str | None, manager_port: int | None = None, moved: Collection[str] = ()
) -> tuple[Question, ...]:
    """Return what is worth asking: each WireGuard endpoint of an interface, each tunnel's remote, and the manager.

    Packets of the tunnels that were `moved` here leave in the namespace that they were made in.

    Raises:
        ValueError: an endpoint is none.
    """
    asked: dict[Question, None] = {}
    for interface in found.wireguard:
        for peer in interface.peers:
            if peer.endpoint is not None:
                asked[_to_endpoint(interface, peer.endpoint)] = None
    for tunnel in found.tunnels:
        for remote in () if tunnel.interface in moved else (tunnel.remote, *tunnel.remotes):
            if remote is not None:
                asked[_to_remote(tunnel, remote)] = None
    if manager_address is not None:
        host, _, zone = manager_address.partition("%")
        asked[Question("manager", None, host, link=zone or None, dport=manager_port)] = None
    return tuple(asked)


def read(asked: Iterable[Question], exits: Mapping[int, Exit]) -> list[Answer]:
    """Ask the kernel all of that; what it refuses is an answer, too. `exits` are all links.

    Raises:
        OSError: the kernel does not answer.
        ValueError: a destination is no IP address, or an answer is malformed.
    """
    indexes = {link.name: index for index, link in exits.items()}
    with Channel() as channel:
        return [_ask(channel, question, indexes) for question in asked]


def parse(answers: Iterable[Answer], exits: Mapping[int, Exit]) -> tuple[Lookup, ...]:
    """Return the answers as they are told, equal ones once; a route without an MTU of its own has its link's.

    Raises:
        ValueError: a message is malformed.
    """
    # Two peers behind one address differ in their port alone, which seldom makes a difference.
    return tuple(dict.fromkeys(_lookup(answer, exits) for answer in answers))


def _to_endpoint(interface: WireguardInterface, endpoint: str) -> Question:
    """Take "192.0.2.1:51820" or "[fe80::1%eth0]:51820" apart."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{endpoint!r} is no endpoint")
    host, _, zone = host.removeprefix("[").removesuffix("]").partition("%")
    return Question(
        "wireguard",
        interface.name,
        host,
        interface.fwmark,
        link=zone or None,
        sport=interface.listen_port or None,
        dport=int(port),
    )


def _to_remote(tunnel: Tunnel, remote: str) -> Question:
    bound = (tunnel.local, tunnel.link)
    return Question("tunnel", tunnel.interface, remote, tunnel.fwmark, *bound, dport=tunnel.port)


def _ask(channel: Channel, question: Question, indexes: Mapping[str, int]) -> Answer:
    link = question.link
    if link is None and question.destination.lower().startswith(_LINK_LOCAL):
        # The kernel would name any interface. wireguard-go does not tell which one it is.
        return Answer(question, None, "which interface the link-local address is behind is not told")
    index = None if link is None else indexes.get(link, _number(link))
    if link is not None and index is None:
        return Answer(question, None, f"there is no interface {link}")
    try:
        return Answer(question, channel.ask(_RTM_GETROUTE, _asked(question, index)))
    except Refused as refusal:
        return Answer(question, None, refusal.strerror)


def _number(link: str) -> int | None:
    # A link without a name here is told by its number; a name may look like one, too.
    return int(link) if link.isdecimal() and len(link) < len("4294967296") else None


# Peers are where they were a report ago.
@lru_cache(maxsize=4096)
def _asked(question: Question, index: int | None) -> bytes:
    family, destination = rtnetlink.packed(question.destination)
    bits, source_bits = 8 * len(destination), 0
    body = rtnetlink.attribute(_RTA_DST, destination)
    if question.source is not None:
        source_family, source = rtnetlink.packed(question.source)
        # A source of the other family would be refused as malformed, not as unreachable.
        if source_family == family:
            source_bits = bits
            body += rtnetlink.attribute(_RTA_SRC, source)
    if question.fwmark:
        body += rtnetlink.attribute(_RTA_MARK, _UINT.pack(question.fwmark))
    if index is not None:
        body += rtnetlink.attribute(_RTA_OIF, _UINT.pack(index))
    if question.purpose != "manager":
        # What the kernel or a daemon sends is root's; a rule may send the agent's own packets, which it speaks for
        # where nothing is said, another way (`ip rule … uidrange`).
        body += rtnetlink.attribute(_RTA_UID, _UINT.pack(0))
    body += _ports(question)
    # IPv6 tells the table in any case, and refuses to be asked.
    flags = _LOOKUP_TABLE if family == socket.AF_INET else 0
    return _ROUTE.pack(family, bits, source_bits, 0, 0, 0, 0, 0, flags) + body


def _ports(question: Question) -> bytes:
    # Of other protocols than UDP and TCP the kernel takes none.
    if question.dport is None:
        return b""
    protocol = rtnetlink.attribute(_RTA_IP_PROTO, _TCP if question.purpose == "manager" else _UDP)
    there = protocol + rtnetlink.attribute(_RTA_DPORT, _PORT.pack(question.dport))
    return there if question.sport is None else there + rtnetlink.attribute(_RTA_SPORT, _PORT.pack(question.sport))


def _lookup(answer: Answer, exits: Mapping[int, Exit]) -> Lookup:
    asked = answer.question
    about = (asked.purpose, asked.tunnel, asked.destination, asked.fwmark)
    if answer.body is None:
        return Lookup(*about, None, None, None, None, None, answer.error)
    family, _, _, _, table, _, _, _, _ = rtnetlink.header(_ROUTE, answer.body)
    found = rtnetlink.attributes(answer.body, _ROUTE.size)
    index = rtnetlink.number(found, _RTA_OIF, 4)
    interface, mtu = (None, None) if index is None else exits.get(index, Exit(f"if{index}", None))
    return Lookup(
        *about,
        interface=interface,
        gateway=routes.gateway(found, family),
        # What is bound to a source keeps it; the kernel tells which one it would have preferred.
        source=asked.source or rtnetlink.address(found, _RTA_PREFSRC, family),
        mtu=_mtu(found) or mtu,
        table=rtnetlink.number(found, _RTA_TABLE, 4) or table,
        error=None,
    )


def _mtu(found: Attributes) -> int | None:
    return rtnetlink.number(rtnetlink.attributes(found.get(_RTA_METRICS, b"")), _RTAX_MTU, 4)
