"""Nexthop objects, as `ip nexthop` shows them: the next hops of a route that only names an object.

The kernel describes such a route like any other unless net.ipv4.nexthop_compat_mode is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kattila_agent.collectors.netlink import transport
from kattila_agent.collectors.netlink.codecs.message import Message
from kattila_agent.collectors.netlink.codecs.rtnetlink import NEXTHOP
from kattila_agent.collectors.netlink.transport import Listed

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
    return transport.retried(
        lambda channel: channel.dump(NEXTHOP.request, NEXTHOP.encode(), _MAX_OBJECTS, least=NEXTHOP.size)
    )


def parse(bodies: Iterable[bytes]) -> Hops:
    """Return the next hops of each object by its id, for a group those of its members; raises ValueError."""
    objects = {_id(found): found for found in map(NEXTHOP.decode, bodies)}
    single = {number: _hop(found) for number, found in objects.items() if found.get("NHA_GROUP") is None}
    groups = {number: found.get("NHA_GROUP") for number, found in objects.items() if number not in single}
    # A member may have come or gone during the dump.
    of_groups = {group: tuple(single[each] for each in members if each in single) for group, members in groups.items()}
    return {number: (hop,) for number, hop in single.items()} | of_groups


def marks(flags: int, encap: int | None) -> tuple[str, ...]:
    """Return what the flags of a next hop and the type of its encapsulation mean, as `ip route` names it."""
    named = tuple(name for bit, name in _MARKED_FLAGS.items() if flags & bit)
    return named if not encap else (*named, f"encap {_ENCAPS.get(encap, encap)}")


def _id(found: Message) -> int:
    number: int | None = found.get("NHA_ID")
    if number is None:
        raise ValueError("a nexthop without its id")
    return number


def _hop(found: Message) -> Hop:
    return Hop(
        found.get("NHA_OIF"), found.get("NHA_GATEWAY"), marks(found.fields["flags"], found.get("NHA_ENCAP_TYPE"))
    )
