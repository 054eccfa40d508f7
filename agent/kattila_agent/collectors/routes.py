"""The main routing table of both families, as `ip -details route show table main` shows it.

May live here: reading routes and naming what they hold.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Mapping

from kattila_agent.collectors.rtnetlink import Message, dump, text
from kattila_protocol.report import Route

# A node with a full table of the Internet has a million; the kernel lists the IPv4 ones first.
MAX_ROUTES = 2000

_ATTRIBUTES = (
    "RTA_DST",
    "RTA_GATEWAY",
    "RTA_VIA",
    "RTA_OIF",
    "RTA_PREFSRC",
    "RTA_PRIORITY",
    "RTA_MULTIPATH",
)

# linux/rtnetlink.h
_MAIN_TABLE = 254
_CLONED = 0x200
_TYPES = (
    "unspec",
    "unicast",
    "local",
    "broadcast",
    "anycast",
    "multicast",
    "blackhole",
    "unreachable",
    "prohibit",
    "throw",
    "nat",
    "xresolve",
)
# linux/rtnetlink.h, under the names of iproute2's rt_protos.
_PROTOCOLS = {
    0: "unspec",
    1: "redirect",
    2: "kernel",
    3: "boot",
    4: "static",
    8: "gated",
    9: "ra",
    10: "mrt",
    11: "zebra",
    12: "bird",
    13: "dnrouted",
    14: "xorp",
    15: "ntk",
    16: "dhcp",
    17: "mrouted",
    18: "keepalived",
    42: "babel",
    99: "openr",
    186: "bgp",
    187: "isis",
    188: "ospf",
    189: "rip",
    192: "eigrp",
}


def read() -> tuple[list[Message], dict[int, str]]:
    """Ask the kernel for the main table of both families, and for the names of the links by index; raises OSError."""
    names = {index: text(os.fsencode(name)) for index, name in socket.if_nameindex()}
    messages: list[Message] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        messages += dump("route", _ATTRIBUTES, MAX_ROUTES - len(messages), family=family, table=_MAIN_TABLE)
        if len(messages) >= MAX_ROUTES:
            break
    return messages, names


def parse(messages: Iterable[Message], names: Mapping[int, str]) -> tuple[Route, ...]:
    """Return the routes in the kernel's order; one with several next hops becomes one route for each.

    Raises:
        KeyError, ValueError, TypeError: a message lacks what every route has, or holds another type.
    """
    listed = (message for message in messages if not message["flags"] & _CLONED)
    return tuple(route for message in listed for route in _routes(message, names))


def _routes(message: Message, names: Mapping[int, str]) -> Iterator[Route]:
    for hop in message.get("RTA_MULTIPATH") or (message,):
        index = hop["oif"] if "oif" in hop else message.get("RTA_OIF")
        yield Route(
            destination=_destination(message),
            gateway=_gateway(hop),
            interface=None if index is None else names.get(index, f"if{index}"),
            source=message.get("RTA_PREFSRC"),
            metric=int(message.get("RTA_PRIORITY", 0)),
            protocol=_PROTOCOLS.get(message["proto"], str(message["proto"])),
            type=_TYPES[message["type"]] if message["type"] < len(_TYPES) else str(message["type"]),
        )


def _destination(message: Message) -> str:
    default = "0.0.0.0" if message["family"] == socket.AF_INET else "::"  # noqa: S104 - a prefix, nothing is bound
    return str(ipaddress.ip_network(f"{message.get('RTA_DST', default)}/{message['dst_len']}"))


def _gateway(hop: Message) -> str | None:
    # RTA_VIA: an IPv4 destination behind an IPv6 gateway (RFC 8950).
    gateway = hop.get("RTA_GATEWAY") or hop.get("RTA_VIA", {}).get("addr")
    return None if gateway is None else str(gateway)
