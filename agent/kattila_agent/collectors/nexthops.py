"""Nexthop objects, as `ip nexthop` shows them: the next hops of a route that only names an object.

The kernel describes such a route like any other unless net.ipv4.nexthop_compat_mode is 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Attributes, Listed

# linux/nexthop.h: struct nhmsg
_RTM_GETNEXTHOP = 106
_HEADER = struct.Struct("=BxxxI")
_ID, _GROUP, _OIF, _GATEWAY, _ENCAP_TYPE = 1, 2, 5, 6, 7
_MEMBER = struct.Struct("=IBBH")
_MAX_OBJECTS = 10_000

# linux/rtnetlink.h: flags of a next hop; linux/lwtunnel.h, with the names of `ip route`
_MARKED_FLAGS = {1: "dead", 16: "linkdown"}
_ENCAPS = {
    1: "mpls",
    2: "ip",
    3: "ila",
    4: "ip6",
    5: "seg6",
    6: "bpf",
    7: "seg6local",
    8: "rpl",
    9: "ioam6",
    10: "xfrm",
}


class Hop(NamedTuple):
    """One next hop: the index of the outgoing link and the gateway, None where there is none, and its marks."""

    oif: int | None
    gateway: str | None
    marks: tuple[str, ...] = ()


Hops = Mapping[int, tuple[Hop, ...]]


def read() -> Listed:
    """Read the first 10,000 objects (rtnetlink(7)); raises OSError or ValueError."""
    request, least = bytes(_HEADER.size), _HEADER.size
    return rtnetlink.retried(lambda channel: channel.dump(_RTM_GETNEXTHOP, request, _MAX_OBJECTS, least=least))


def parse(bodies: Iterable[bytes]) -> Hops:
    """Return the next hops of each object by its id, for a group those of its members; raises ValueError."""
    objects = [(*_HEADER.unpack_from(body), dict(rtnetlink.attributes(body, _HEADER.size))) for body in bodies]
    single = {_id(found): _hop(found, family, flags) for family, flags, found in objects if _GROUP not in found}
    groups = {_id(found): tuple(_members(found[_GROUP])) for _, _, found in objects if _GROUP in found}
    # A member may have come or gone during the dump.
    of_groups = {group: tuple(single[each] for each in members if each in single) for group, members in groups.items()}
    return {number: (hop,) for number, hop in single.items()} | of_groups


def marks(flags: int, encap: int | None) -> tuple[str, ...]:
    """Return what the flags of a next hop and the type of its encapsulation mean, as `ip route` names it."""
    named = tuple(name for bit, name in _MARKED_FLAGS.items() if flags & bit)
    return named if not encap else (*named, f"encap {_ENCAPS.get(encap, encap)}")


def _id(found: Attributes) -> int:
    number = rtnetlink.number(found, _ID, 4)
    if number is None:
        raise ValueError("a nexthop without its id")
    return number


def _hop(found: Attributes, family: int, flags: int) -> Hop:
    encap = rtnetlink.number(found, _ENCAP_TYPE, 2)
    return Hop(rtnetlink.number(found, _OIF, 4), rtnetlink.address(found, _GATEWAY, family), marks(flags, encap))


def _members(group: bytes) -> Iterator[int]:
    if len(group) % _MEMBER.size:
        raise ValueError(f"a group of nexthops of {len(group)} bytes")
    return (number for number, *_ in _MEMBER.iter_unpack(group))
