"""The links of this network namespace with their addresses, as `ip -details link` and `ip address` show them.

May live here: reading both tables and joining them into interfaces.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping

from kattila_agent.collectors.rtnetlink import Message, dump, text
from kattila_protocol.report import Interface

# What fits into a report beside the routes; a host with more runs containers, whose links are made by software.
MAX_LINKS = 1000
MAX_ADDRESSES = 2000

_LINK_ATTRIBUTES = (
    "IFLA_IFNAME",
    "IFLA_ADDRESS",
    "IFLA_MTU",
    "IFLA_LINK",
    "IFLA_LINK_NETNSID",
    "IFLA_MASTER",
    "IFLA_OPERSTATE",
    "IFLA_LINKINFO",
    "IFLA_STATS64",
)
_ADDRESS_ATTRIBUTES = ("IFA_ADDRESS", "IFA_LOCAL")

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


def read() -> tuple[list[Message], list[Message]]:
    """Ask the kernel for links and addresses; raises OSError."""
    return dump("link", _LINK_ATTRIBUTES, MAX_LINKS), dump("addr", _ADDRESS_ATTRIBUTES, MAX_ADDRESSES)


def parse(links: Iterable[Message], addresses: Iterable[Message]) -> tuple[Interface, ...]:
    """Join links and addresses, in the kernel's order.

    Raises:
        KeyError, ValueError, TypeError: a message lacks what every link or address has, or holds another type.
    """
    links = list(links)
    names = {link["index"]: text(link["IFLA_IFNAME"]) for link in links}
    by_link = _by_link(addresses)
    return tuple(_interface(link, names, by_link[link["index"]]) for link in links)


def flag_names(flags: int) -> tuple[str, ...]:
    """Name the flags of a link as `ip link` does; bits without a name come last, together in hex."""
    named = [name for name, bit in _FLAGS if flags & bit]
    rest = flags & ~_RUNNING
    for _, bit in _FLAGS:
        rest &= ~bit
    no_carrier = ["NO-CARRIER"] if flags & _UP and not flags & _RUNNING else []
    return tuple(no_carrier + named + ([f"{rest:x}"] if rest else []))


def _by_link(addresses: Iterable[Message]) -> defaultdict[int, list[str]]:
    by_link: defaultdict[int, list[str]] = defaultdict(list)
    for message in addresses:
        # IFA_ADDRESS is the other end of a point-to-point link; IFA_LOCAL, where there is one, is this end.
        local = message.get("IFA_LOCAL") or message["IFA_ADDRESS"]
        by_link[message["index"]].append(f"{local}/{message['prefixlen']}")
    return by_link


def _interface(link: Message, names: Mapping[int, str], addresses: list[str]) -> Interface:
    stats = link.get("IFLA_STATS64", {})
    kind = link.get("IFLA_LINKINFO", {}).get("IFLA_INFO_KIND")
    # An index of another network namespace names nothing here.
    below = None if "IFLA_LINK_NETNSID" in link else link.get("IFLA_LINK")
    return Interface(
        index=int(link["index"]),
        name=names[link["index"]],
        kind=None if kind is None else text(kind),
        flags=flag_names(link["flags"]),
        operstate=str(link.get("IFLA_OPERSTATE", "UNKNOWN")),
        mtu=int(link["IFLA_MTU"]),
        address=_hardware_address(link["ifi_type"], link.get("IFLA_ADDRESS")),
        addresses=tuple(addresses),
        master=names.get(link.get("IFLA_MASTER", 0)),
        link=names.get(below or 0),
        rx_bytes=int(stats.get("rx_bytes", 0)),
        tx_bytes=int(stats.get("tx_bytes", 0)),
    )


def _hardware_address(link_type: int, address: bytes | None) -> str | None:
    if not address:
        return None
    if link_type in _TUNNELS and len(address) in (4, 16):
        return str(ipaddress.ip_address(address))
    return address.hex(":")
