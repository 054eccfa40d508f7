"""The links of this network namespace with their addresses, as `ip -details link` and `ip address` show them."""

from __future__ import annotations

import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kattila_agent.collectors import link_table
from kattila_agent.collectors.limits import Bounded, cut
from kattila_agent.collectors.link_table import Link
from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Attributes, Listed, NetlinkChannel
from kattila_protocol.canonical import MAX_INTEGER
from kattila_protocol.report import AddressMark, Interface

# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
_RTM_GETADDR = 22
_ADDRESS = struct.Struct("=BBBBi")
_IFLA_ADDRESS, _IFLA_LINK, _IFLA_MASTER, _IFLA_OPERSTATE = 1, 5, 10, 16
_IFLA_STATS64, _IFLA_PERM_ADDRESS = 23, 54
_INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 4, 5
_VLAN_ID = 1
_BRPORT_STATE = 1
_BOND_SLAVE_STATE = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
# The flags of an address that may not be in use, in the order of `ip address`.
_ADDRESS_MARKS = {0x40: "tentative", 0x04: "optimistic", 0x08: "dadfailed"}
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
# The kernel lists all IPv4 addresses, link by link, before IPv6. Without this minimum, one link with thousands of
# addresses, such as kube-ipvs0, would leave none to later links and to IPv6.
_ALWAYS = 8

_OPERSTATES = dict(enumerate(("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")))
# The state of a port by the kind of its master: which attribute holds it, and the names of its values.
_PORT_STATES = {
    "bridge": (_BRPORT_STATE, dict(enumerate(("disabled", "listening", "learning", "forwarding", "blocking")))),
    "bond": (_BOND_SLAVE_STATE, dict(enumerate(("ACTIVE", "BACKUP")))),
}
# The beginning of struct rtnl_link_stats64. The packet counters in front of the bytes are skipped: they change with
# every report and add nothing to the bytes.
_STATS = struct.Struct("=16x6Q")
_COUNTERS = ("rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped")

# linux/if.h, in the order of `ip link`
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
class LinkReadings:
    """What the kernel returned: RTM_NEWLINK, RTM_NEWADDR of these links, and the names of all other links by index."""

    links: Listed
    addresses: Listed
    names: Mapping[int, str]


def read(max_links: int, max_addresses: int) -> LinkReadings:
    """Read the first `max_links` links and their addresses (rtnetlink(7)).

    Beyond `max_addresses`, the first 8 addresses of each link and family are kept. Addresses of other links are only
    counted.

    Raises:
        OSError, ValueError: see `rtnetlink.retried`.
    """
    request = link_table.request(counters=True)
    least = link_table.HEADER.size
    links = rtnetlink.retried(lambda channel: channel.dump(link_table.RTM_GETLINK, request, max_links, least=least))
    names = {} if len(links.bodies) == links.total else link_table.read_by_index(link_table.name)
    kept = {link_table.HEADER.unpack_from(body)[2] for body in links.bodies}
    # Addresses of a link that was made after the links were read belong to no known link, and are not counted.
    known = kept | names.keys()
    addresses = rtnetlink.retried(lambda channel: _read_addresses(channel, kept, known, max_addresses))
    return LinkReadings(links, addresses, names)


def parse(readings: LinkReadings) -> Bounded[Interface]:
    """Return the links with their addresses, in the kernel's order.

    Raises:
        ValueError: a message is malformed, or lacks what every link or address has.
    """
    links = [Link.of(body) for body in readings.links.bodies]
    names = {**readings.names, **{link.index: link.name for link in links}}
    addresses: defaultdict[int, list[str]] = defaultdict(list)
    marked: list[AddressMark] = []
    for body in readings.addresses.bodies:
        attributes = dict(rtnetlink.attributes(body, _ADDRESS.size))
        family, length, flags, _, index = _ADDRESS.unpack_from(body)
        # On a point-to-point link, IFA_ADDRESS is the remote end; IFA_LOCAL, if present, is always the local one.
        kind = _IFA_LOCAL if _IFA_LOCAL in attributes else _IFA_ADDRESS
        if kind not in attributes:
            raise ValueError(f"an address of link {index} is missing")
        address = rtnetlink.prefix(attributes, kind, family, length)
        addresses[index].append(address)
        # The byte in the header lacks newer flags; the attribute has all.
        flags |= rtnetlink.number(attributes, _IFA_FLAGS, 4) or 0
        if marks := tuple(name for bit, name in _ADDRESS_MARKS.items() if flags & bit):
            marked.append(AddressMark(names.get(index) or f"if{index}", address, marks))
    interfaces = tuple(_interface(link, names, tuple(addresses[link.index])) for link in links)
    return Bounded(
        interfaces,
        (
            *cut("interfaces", len(interfaces), readings.links.total),
            *cut("addresses", sum(len(each.addresses) for each in interfaces), readings.addresses.total),
        ),
        marks={"address_marks": tuple(marked)},
    )


def flag_names(flags: int) -> tuple[str, ...]:
    """Return the names of a link's flags as `ip link` shows them; unknown bits come last, as one hex number."""
    named = [name for name, bit in _FLAGS if flags & bit]
    unknown = flags & ~_RUNNING
    for _, bit in _FLAGS:
        unknown &= ~bit
    no_carrier = ["NO-CARRIER"] if flags & _UP and not flags & _RUNNING else []
    return tuple(no_carrier + named + ([f"{unknown:x}"] if unknown else []))


def _read_addresses(channel: NetlinkChannel, links: Collection[int], known: Collection[int], limit: int) -> Listed:
    """Keep the addresses of `links`, and count those of all `known` ones."""
    kept: list[bytes] = []
    total = 0
    of_link: Counter[tuple[int, int]] = Counter()
    for body in channel.each(_RTM_GETADDR, bytes(_ADDRESS.size), least=_ADDRESS.size):
        family, _, _, _, index = _ADDRESS.unpack_from(body)
        if family not in _FAMILIES or index not in known:
            continue
        total += 1
        of_link[index, family] += 1
        if index in links and (len(kept) < limit or of_link[index, family] <= _ALWAYS):
            kept.append(body)
    return Listed(kept, total)


def _interface(link: Link, names: Mapping[int, str], addresses: tuple[str, ...]) -> Interface:
    found, info = link.attributes, link.info
    mtu = rtnetlink.number(found, link_table.MTU, 4)
    if mtu is None:
        raise ValueError(f"{link.name} has no MTU")
    operstate = rtnetlink.number(found, _IFLA_OPERSTATE, 1) or 0
    below = rtnetlink.number(found, _IFLA_LINK, 4)
    # Signed, as NETNSA_NSID_NOT_ASSIGNED is -1.
    netnsid = rtnetlink.number(found, link_table.NETNSID, 4, signed=True)
    port_of = rtnetlink.string(info, _INFO_SLAVE_KIND)
    return Interface(
        index=link.index,
        name=link.name,
        kind=link.kind,
        flags=flag_names(link.flags),
        operstate=_OPERSTATES.get(operstate, str(operstate)),
        mtu=mtu,
        address=_hardware_address(link.type, found.get(_IFLA_ADDRESS)),
        addresses=addresses,
        master=names.get(rtnetlink.number(found, _IFLA_MASTER, 4) or 0),
        # An index in another network namespace would name the wrong link here.
        link=names.get(below or 0) if netnsid is None else None,
        **_counters(found.get(_IFLA_STATS64)),
        permanent_address=_hardware_address(link.type, found.get(_IFLA_PERM_ADDRESS)),
        link_index=below or None,
        link_netnsid=netnsid,
        vlan_id=rtnetlink.number(link.details, _VLAN_ID, 2) if link.kind == "vlan" else None,
        slave_kind=port_of,
        slave_state=_port_state(port_of, info) if port_of in _PORT_STATES else None,
    )


def _counters(stats: bytes | None) -> dict[str, int]:
    if stats is None:
        return {}
    if len(stats) < _STATS.size:
        raise ValueError(f"statistics of {len(stats)} bytes")
    # The counters are u64, and a driver whose counter falls below zero shows 2^64 - 1. The protocol has no such number,
    # and the manager would refuse each report with one.
    counted = (min(counter, MAX_INTEGER) for counter in _STATS.unpack_from(stats))
    return dict(zip(_COUNTERS, counted, strict=True))


def _port_state(port_of: str, info: Attributes) -> str | None:
    kind, names = _PORT_STATES[port_of]
    state = rtnetlink.number(dict(rtnetlink.attributes(info.get(_INFO_SLAVE_DATA, b""))), kind, 1)
    return None if state is None else names.get(state, str(state))


def _hardware_address(link_type: int, address: bytes | None) -> str | None:
    if not address:
        return None
    if link_type in _TUNNELS and len(address) in (4, 16):
        return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
    return address.hex(":")
