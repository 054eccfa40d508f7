"""The links of this network namespace with their addresses, as `ip -details link` and `ip address` show them."""

from __future__ import annotations

import errno
import socket
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from kattila_agent.collectors import link_table
from kattila_agent.collectors.limits import Bounded, cut
from kattila_agent.collectors.link_table import Link
from kattila_agent.collectors.netlink import notation, transport
from kattila_agent.collectors.netlink.codecs.message import Message
from kattila_agent.collectors.netlink.codecs.rtnetlink import ADDRESS, LINK, STATISTICS
from kattila_agent.collectors.netlink.transport import Listed, NetlinkChannel
from kattila_protocol.canonical import MAX_INTEGER
from kattila_protocol.report import AddressMark, AddressPeer, Interface

# Fields in the headers of an address, a link, and its counters.
_family_and_index, _index = ADDRESS.reader("family", "index"), LINK.reader("index")
_counted = STATISTICS.reader("ifindex")
# linux/if_link.h: IFLA_STATS_FILTER_BIT(IFLA_STATS_LINK_64)
_LINK_64 = 1
# The flags of an address that may not be in use, or not be the first choice, in the order of `ip address`. The first
# bit is IFA_F_SECONDARY and IFA_F_TEMPORARY.
_SECONDARY: Mapping[int, str] = {socket.AF_INET: "secondary", socket.AF_INET6: "temporary"}
_ADDRESS_MARKS = {0x40: "tentative", 0x20: "deprecated", 0x04: "optimistic", 0x08: "dadfailed"}
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
# The kernel lists all IPv4 addresses, link by link, before IPv6. Without this minimum, one link with thousands of
# addresses, such as kube-ipvs0, would leave none to later links and to IPv6.
_ALWAYS = 8

_OPERSTATES = dict(enumerate(("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")))
# The state of a port by the kind of its master: which attribute holds it, and the names of its values.
_PORT_STATES = {
    "bridge": ("IFLA_BRPORT_STATE", dict(enumerate(("disabled", "listening", "learning", "forwarding", "blocking")))),
    "bond": ("IFLA_BOND_SLAVE_STATE", dict(enumerate(("ACTIVE", "BACKUP")))),
}
# The packet counters are left out: they change with every report and add nothing to the bytes.
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
    """What the kernel returned: RTM_NEWLINK, RTM_NEWADDR of these links, and the names of all other links by index.

    `statistics` are RTM_NEWSTATS of these links, or `refusal` is the kernel's error.
    """

    links: Listed
    addresses: Listed
    names: Mapping[int, str]
    statistics: tuple[bytes, ...] = ()
    refusal: str | None = None


class LinkDescription(NamedTuple):
    """An interface without its addresses and counters, and without the names of its master and of the link below.

    `master` and `below` are the indexes of those in this namespace, 0 if there are none.
    """

    interface: Interface
    master: int
    below: int


class LinkAddress(NamedTuple):
    """An address: the index of its link, the address with its prefix length, its marks, and its remote end."""

    link: int
    address: str
    marks: tuple[str, ...]
    peer: str | None


def read(max_links: int, max_addresses: int) -> LinkReadings:
    """Read the first `max_links` links and their addresses (rtnetlink(7)).

    Beyond `max_addresses`, the first 8 addresses of each link and family are kept. Addresses of other links are only
    counted.

    Raises:
        OSError, ValueError: see `transport.retried`.
    """
    request = link_table.request()
    links = transport.retried(lambda channel: channel.dump(LINK.request, request, max_links, least=LINK.size))
    names = {} if len(links.bodies) == links.total else link_table.read_by_index(link_table.name)
    kept = {_index(body)[0] for body in links.bodies}
    # Addresses of a link that was made after the links were read belong to no known link, and are not counted.
    known = kept | names.keys()
    addresses = transport.retried(lambda channel: _read_addresses(channel, kept, known, max_addresses))
    try:
        statistics = transport.retried(
            lambda channel: channel.dump(
                STATISTICS.request,
                STATISTICS.encode(filter_mask=_LINK_64),
                max_links,
                least=STATISTICS.size,
                wanted=lambda body: _counted(body)[0] in kept,
            ),
            accept_changes=True,
        )
    except OSError as error:
        # A kernel before 4.7 and emulators of one have no such request.
        if error.errno != errno.EOPNOTSUPP:
            raise
        return LinkReadings(links, addresses, names, refusal=error.strerror)
    return LinkReadings(links, addresses, names, tuple(statistics.bodies))


def parse(readings: LinkReadings) -> Bounded[Interface]:
    """Return the links with their addresses, in the kernel's order.

    Raises:
        ValueError: a message is malformed, or lacks what every link or address has.
    """
    found = [_describe(body) for body in readings.links.bodies]
    names = {**readings.names, **{each.interface.index: each.interface.name for each in found}}
    counters = dict(map(_counters, readings.statistics))
    addresses: defaultdict[int, list[str]] = defaultdict(list)
    marked, peers = list[AddressMark](), list[AddressPeer]()
    for index, address, marks, peer in map(_address, readings.addresses.bodies):
        addresses[index].append(address)
        name = names.get(index) or f"if{index}"
        marked += [AddressMark(name, address, marks)] if marks else []
        peers += [AddressPeer(name, address, peer)] if peer else []
    interfaces = tuple(
        replace(
            each.interface,
            master=names.get(each.master),
            link=names.get(each.below),
            addresses=tuple(addresses[each.interface.index]),
            **counters.get(each.interface.index, {}),
        )
        for each in found
    )
    return Bounded(
        interfaces,
        (
            *cut("interfaces", len(interfaces), readings.links.total),
            *cut("addresses", sum(len(each.addresses) for each in interfaces), readings.addresses.total),
        ),
        failures=() if readings.refusal is None else (f"the counters of all links: {readings.refusal}",),
        marks={"address_marks": tuple(marked), "address_peers": tuple(peers)},
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
    for body in channel.each(ADDRESS.request, ADDRESS.encode(), least=ADDRESS.size):
        family, index = _family_and_index(body)
        if family not in _FAMILIES or index not in known:
            continue
        total += 1
        of_link[index, family] += 1
        if index in links and (len(kept) < limit or of_link[index, family] <= _ALWAYS):
            kept.append(body)
    return Listed(kept, total)


# Few addresses change between two reports.
@lru_cache(maxsize=4096)
def _address(body: bytes) -> LinkAddress:
    found = ADDRESS.decode(body)
    index, family = found.fields["index"], found.fields["family"]
    # On a point-to-point link, IFA_ADDRESS is the remote end; IFA_LOCAL, if present, is always the local one.
    local, remote = found.get("IFA_LOCAL"), found.get("IFA_ADDRESS")
    address = local or remote
    if address is None:
        raise ValueError(f"an address of link {index} is missing")
    # The byte in the header lacks newer flags; the attribute has all.
    flags = found.fields["flags"] | (found.get("IFA_FLAGS") or 0)
    words = {0x01: _SECONDARY.get(family, "secondary")} | _ADDRESS_MARKS
    marks = tuple(word for bit, word in words.items() if flags & bit)
    length = found.fields["prefixlen"]
    peer = notation.prefix(remote, family, length) if local and remote and remote != local else None
    return LinkAddress(index, notation.prefix(address, family, length), marks, peer)


# Decoding a link takes long, and few change between two reports.
@lru_cache(maxsize=4096)
def _describe(body: bytes) -> LinkDescription:
    link = Link.of(body)
    found = link.message
    mtu = found.get("IFLA_MTU")
    if mtu is None:
        raise ValueError(f"{link.name} has no MTU")
    operstate, below, netnsid = found.get("IFLA_OPERSTATE") or 0, found.get("IFLA_LINK"), found.get("IFLA_LINK_NETNSID")
    port_of = link.info.get("IFLA_INFO_SLAVE_KIND")
    interface = Interface(
        index=link.index,
        name=link.name,
        kind=link.kind,
        flags=flag_names(link.flags),
        operstate=_OPERSTATES.get(operstate, str(operstate)),
        mtu=mtu,
        address=_hardware_address(link.type, found.get("IFLA_ADDRESS")),
        addresses=(),
        permanent_address=_hardware_address(link.type, found.get("IFLA_PERM_ADDRESS")),
        link_index=below or None,
        link_netnsid=netnsid,
        vlan_id=link.details.get("IFLA_VLAN_ID"),
        slave_kind=port_of,
        slave_state=_port_state(port_of, link.info) if port_of in _PORT_STATES else None,
    )
    # An index in another network namespace would name the wrong link here.
    return LinkDescription(interface, found.get("IFLA_MASTER") or 0, (below or 0) if netnsid is None else 0)


def _counters(body: bytes) -> tuple[int, dict[str, Any]]:
    """Return the index of a link and its counters."""
    found = STATISTICS.decode(body)
    counted = found.get("IFLA_STATS_LINK_64") or {}
    # The counters are u64, and a driver whose counter falls below zero shows 2^64 - 1. The protocol has no such number,
    # and the manager would refuse each report with one.
    return found.fields["ifindex"], {name: min(counted[name], MAX_INTEGER) for name in _COUNTERS if name in counted}


def _port_state(port_of: str, info: Message | Mapping[str, Any]) -> str | None:
    attribute, names = _PORT_STATES[port_of]
    state = (info.get("IFLA_INFO_SLAVE_DATA") or {}).get(attribute)
    return None if state is None else names.get(state, str(state))


def _hardware_address(link_type: int, address: bytes | None) -> str | None:
    if not address:
        return None
    if link_type in _TUNNELS and len(address) in (4, 16):
        return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
    return address.hex(":")
