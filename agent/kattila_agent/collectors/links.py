"""The links of this network namespace with their addresses, as `ip -details link` and `ip address` show them.

May live here: reading both tables and joining them into interfaces. Not here: what tunnels say of their ends.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from kattila_agent.collectors import link_table
from kattila_agent.collectors.bounds import Bounded, cut
from kattila_agent.collectors.link_table import Link
from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Attributes, Channel, Listed
from kattila_protocol.canonical import MAX_INTEGER
from kattila_protocol.report import Interface

# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
_RTM_GETADDR = 22
_ADDRESS = struct.Struct("=BBBBi")
_IFLA_ADDRESS, _IFLA_LINK, _IFLA_MASTER, _IFLA_OPERSTATE = 1, 5, 10, 16
_IFLA_STATS64, _IFLA_PERM_ADDRESS = 23, 54
_INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 4, 5
_VLAN_ID = 1
_BRPORT_STATE = 1
_BOND_SLAVE_STATE = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
# The kernel tells all of IPv4 before IPv6, link by link. Else one with thousands, as kube-ipvs0 has them, would leave
# those after it, and all of IPv6, without any.
_ALWAYS = 8

_OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")
_BRIDGE_STATES = ("disabled", "listening", "learning", "forwarding", "blocking")
_BOND_STATES = ("ACTIVE", "BACKUP")
# The first of struct rtnl_link_stats64, without the packets in front of the bytes: they change with every report and
# tell nothing that bytes do not.
_STATS = struct.Struct("=16x6Q")
_COUNTERS = ("rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped")

# linux/if.h, in the order of `ip link`.
_UP = 1 << 0
_RUNNING = 1 << 6
_FLAGS = (
    ("LOOPBACK", 1 << 3),
    ("BROADCAST", 1 << 1),
    ("POINTOPOINT", 1 << 4),
    ("MULTICAST", 1 << 12),
    ("NOARP", 1 << 7),
    ("ALLMULTI", 1 << 9),
    ("PROMISC", 1 << 8),
    ("MASTER", 1 << 10),
    ("SLAVE", 1 << 11),
    ("DEBUG", 1 << 2),
    ("DYNAMIC", 1 << 15),
    ("AUTOMEDIA", 1 << 14),
    ("PORTSEL", 1 << 13),
    ("NOTRAILERS", 1 << 5),
    ("UP", _UP),
    ("LOWER_UP", 1 << 16),
    ("DORMANT", 1 << 17),
    ("ECHO", 1 << 18),
)

# linux/if_arp.h: links whose hardware address is the tunnel's IP address.
_TUNNELS = frozenset((768, 769, 776, 778, 823))


@dataclass(frozen=True, slots=True)
class Readings:
    """What the kernel says: RTM_NEWLINK, RTM_NEWADDR of these links, and the names of the other links by index."""

    links: Listed
    addresses: Listed
    names: Mapping[int, str]


def read(max_links: int, max_addresses: int) -> Readings:
    """Ask the kernel for links and addresses, beyond `max_addresses` for the first 8 of each link and family.

    Addresses of links beyond `max_links` are counted. Raises OSError or ValueError.
    """
    question = link_table.question(counters=True)
    links = rtnetlink.dump(link_table.RTM_GETLINK, question, max_links, least=link_table.HEADER.size)
    names = {} if len(links.bodies) == links.total else link_table.names_by_index()
    told = {link_table.index_of(body) for body in links.bodies}
    # One that came after the links were read is not told, and no part of what is not whole.
    known = told | names.keys()
    return Readings(links, rtnetlink.settled(lambda channel: _addresses(channel, told, known, max_addresses)), names)


def parse(readings: Readings) -> Bounded[Interface]:
    """Join links and addresses, in the kernel's order.

    Raises:
        ValueError: a message is malformed or lacks what every link or address has.
    """
    links = [Link.of(body) for body in readings.links.bodies]
    names = {**readings.names, **{link.index: link.name for link in links}}
    by_link = _by_link(readings.addresses.bodies)
    interfaces = tuple(_interface(link, names, tuple(by_link[link.index])) for link in links)
    return Bounded(
        interfaces,
        (
            *cut("interfaces", len(interfaces), readings.links.total),
            *cut("addresses", sum(len(each.addresses) for each in interfaces), readings.addresses.total),
        ),
    )


def flag_names(flags: int) -> tuple[str, ...]:
    """Name the flags of a link as `ip link` does; bits without a name come last, together in hex."""
    named = [name for name, bit in _FLAGS if flags & bit]
    rest = flags & ~_RUNNING
    for _, bit in _FLAGS:
        rest &= ~bit
    no_carrier = ["NO-CARRIER"] if flags & _UP and not flags & _RUNNING else []
    return tuple(no_carrier + named + ([f"{rest:x}"] if rest else []))


def _addresses(channel: Channel, told: Collection[int], known: Collection[int], limit: int) -> Listed:
    kept: list[bytes] = []
    total = 0
    of_link: Counter[tuple[int, int]] = Counter()
    for body in channel.each(_RTM_GETADDR, bytes(_ADDRESS.size), least=_ADDRESS.size):
        family, _, _, _, index = _ADDRESS.unpack_from(body)
        if family not in _FAMILIES or index not in known:
            continue
        total += 1
        of_link[index, family] += 1
        if index in told and (len(kept) < limit or of_link[index, family] <= _ALWAYS):
            kept.append(body)
    return Listed(kept, total)


def _by_link(bodies: Iterable[bytes]) -> defaultdict[int, list[str]]:
    by_link: defaultdict[int, list[str]] = defaultdict(list)
    for body in bodies:
        family, length, _, _, index = rtnetlink.header(_ADDRESS, body)
        found = rtnetlink.attributes(body, _ADDRESS.size)
        # IFA_ADDRESS is the other end of a point-to-point link; IFA_LOCAL, where there is one, is this end.
        kind = _IFA_LOCAL if _IFA_LOCAL in found else _IFA_ADDRESS
        if kind not in found:
            raise ValueError(f"an address of link {index} is missing")
        by_link[index].append(rtnetlink.prefix(found, kind, family, length))
    return by_link


def _interface(link: Link, names: Mapping[int, str], addresses: tuple[str, ...]) -> Interface:
    found, info = link.found, link.info
    mtu = rtnetlink.number(found, link_table.MTU, 4)
    if mtu is None:
        raise ValueError(f"{link.name} has no MTU")
    slave_kind = rtnetlink.string(info, _INFO_SLAVE_KIND)
    below = rtnetlink.number(found, _IFLA_LINK, 4)
    netnsid = _signed(rtnetlink.number(found, link_table.NETNSID, 4))
    return Interface(
        index=link.index,
        name=link.name,
        kind=link.kind,
        flags=flag_names(link.flags),
        operstate=_named(_OPERSTATES, rtnetlink.number(found, _IFLA_OPERSTATE, 1) or 0),
        mtu=mtu,
        address=_hardware_address(link.type, found.get(_IFLA_ADDRESS)),
        addresses=addresses,
        master=names.get(rtnetlink.number(found, _IFLA_MASTER, 4) or 0),
        # An index of another network namespace names nothing here.
        link=names.get(below or 0) if netnsid is None else None,
        **_counters(found.get(_IFLA_STATS64)),
        permanent_address=_hardware_address(link.type, found.get(_IFLA_PERM_ADDRESS)),
        link_index=below or None,
        link_netnsid=netnsid,
        vlan_id=_vlan_id(link),
        slave_kind=slave_kind,
        slave_state=_slave_state(slave_kind, info),
    )


def _counters(stats: bytes | None) -> dict[str, int]:
    if stats is None:
        return {}
    if len(stats) < _STATS.size:
        raise ValueError(f"statistics of {len(stats)} bytes")
    # They are u64, and a driver whose counter falls below zero tells 2^64 - 1: the protocol has no such number, and the
    # manager would drop the whole report for it, each time.
    counted = (min(counter, MAX_INTEGER) for counter in _STATS.unpack_from(stats))
    return dict(zip(_COUNTERS, counted, strict=True))


def _vlan_id(link: Link) -> int | None:
    return rtnetlink.number(link.details, _VLAN_ID, 2) if link.kind == "vlan" else None


def _slave_state(slave_kind: str | None, info: Attributes) -> str | None:
    if slave_kind not in ("bridge", "bond"):
        return None
    found = rtnetlink.attributes(info.get(_INFO_SLAVE_DATA, b""))
    kind, names = (_BRPORT_STATE, _BRIDGE_STATES) if slave_kind == "bridge" else (_BOND_SLAVE_STATE, _BOND_STATES)
    state = rtnetlink.number(found, kind, 1)
    return None if state is None else _named(names, state)


def _named(names: tuple[str, ...], which: int) -> str:
    return names[which] if which < len(names) else str(which)


def _signed(found: int | None) -> int | None:
    # NETNSA_NSID_NOT_ASSIGNED is -1.
    return found if found is None or found < 1 << 31 else found - (1 << 32)


def _hardware_address(link_type: int, address: bytes | None) -> str | None:
    if not address:
        return None
    if link_type in _TUNNELS and len(address) in (4, 16):
        return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
    return address.hex(":")
