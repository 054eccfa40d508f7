"""Asking the kernel for its table of links (RTM_GETLINK), for some of them, and for what is briefly said of all.

May live here: what every such question and answer has. Not here: what a link says of itself (links) or of its ends
(tunnels).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Attributes, Channel, Refused

_Said = TypeVar("_Said")

# linux/rtnetlink.h: struct ifinfomsg, and its type, index and flags
RTM_GETLINK = 18
HEADER = struct.Struct("=BxHiII")
# linux/if_link.h
IFNAME, MTU, LINKINFO, NETNSID = 3, 4, 18, 37
INFO_KIND, INFO_DATA = 1, 2

_EXT_MASK = 29
_NESTED = 0x8000
_MAX_OF_A_KIND = 10_000
# A dump that asks for nothing special ends without a word before a link whose message is larger than the kernel's usual
# buffer, as that of one with hundreds of alternative names. Any bit of the mask has the kernel measure them all first:
# RTEXT_FILTER_MRP adds nothing outside of bridges' own dumps, RTEXT_FILTER_SKIP_STATS leaves the counters out.
_WHOLE, _WITHOUT_COUNTERS = 1 << 4, 1 << 3


@dataclass(frozen=True, slots=True)
class Link:
    """A message about a link, opened; `type` is its ARPHRD_*, `kind` None for hardware."""

    type: int
    index: int
    flags: int
    name: str
    kind: str | None
    found: Attributes
    info: Attributes

    @classmethod
    def of(cls, body: bytes) -> Link:
        """Open a message; raises ValueError if it is malformed or has no name."""
        _, link_type, index, flags, _ = rtnetlink.header(HEADER, body)
        found = rtnetlink.attributes(body, HEADER.size)
        info = rtnetlink.attributes(found.get(LINKINFO, b""))
        name = rtnetlink.string(found, IFNAME)
        if name is None:
            raise ValueError(f"link {index} has no name")
        return cls(link_type, index, flags, name, rtnetlink.string(info, INFO_KIND), found, info)

    @property
    def details(self) -> Attributes:
        """What only links of its kind have; raises ValueError if it is malformed."""
        return rtnetlink.attributes(self.info.get(INFO_DATA, b""))


@dataclass(frozen=True, slots=True)
class Brief:
    """What tells a link from others; `kind` is None for hardware."""

    index: int
    name: str
    kind: str | None


class Exit(NamedTuple):
    """What is said of the link that packets leave by."""

    name: str
    mtu: int | None


def question(*selecting: bytes, index: int = 0, counters: bool = False) -> bytes:
    """Return the body that asks for all links, for those that further attributes select, or for that one."""
    mask = struct.pack("=I", _WHOLE if counters else _WITHOUT_COUNTERS)
    return HEADER.pack(0, 0, index, 0, 0) + rtnetlink.attribute(_EXT_MASK, mask) + b"".join(selecting)


def index_of(body: bytes) -> int:
    """Return the number of the link that a message, which has a header, is about."""
    index: int = HEADER.unpack_from(body)[2]
    return index


def of_kind(kind: str) -> list[Link]:
    """Return the links of a kind, as "wireguard", which takes no privilege.

    Raises:
        OSError, ValueError: see `rtnetlink.settled`, or there are more than 10,000.
    """
    found = rtnetlink.settled(lambda channel: _of_kind(channel, kind))
    if len(found) > _MAX_OF_A_KIND:
        raise ValueError(f"more than {_MAX_OF_A_KIND} links of the kind {kind}")
    return found


def each_of(indexes: Iterable[int]) -> Iterator[bytes]:
    """Yield the messages about these links, without those that are gone.

    Raises:
        OSError, ValueError: see `Channel.ask`, at any of them.
    """
    with Channel() as channel:
        for index in indexes:
            try:
                yield channel.ask(RTM_GETLINK, question(index=index))
            except Refused as refusal:
                if refusal.errno != errno.ENODEV:
                    raise


def names_by_index() -> dict[int, str]:
    """Return the names of all links, as `rtnetlink.text` shows them.

    One that comes or goes meanwhile may be missing, where links never stop doing so. if_nameindex(3) asks without a
    mask, and misses what comes after a large message.

    Raises:
        OSError, ValueError: see `rtnetlink.settled`.
    """
    return _by_index(_name)


def exits_by_index() -> dict[int, Exit]:
    """Return the names of all links as `names_by_index` does, and their MTUs."""
    return _by_index(_exit)


def briefly() -> list[Brief]:
    """Return all links in the kernel's order, as `names_by_index` does; several times as slow."""
    return list(_by_index(_brief).values())


def _by_index(said: Callable[[bytes], _Said]) -> dict[int, _Said]:
    try:
        return rtnetlink.settled(lambda channel: _each_said(channel, said))
    except BlockingIOError:
        return rtnetlink.settled(lambda channel: _each_said(channel, said, changing=True))


def _each_said(channel: Channel, said: Callable[[bytes], _Said], *, changing: bool = False) -> dict[int, _Said]:
    bodies = channel.each(RTM_GETLINK, question(), least=HEADER.size, changing=changing)
    return {index_of(body): said(body) for body in bodies}


def _of_kind(channel: Channel, kind: str) -> list[Link]:
    wanted = rtnetlink.attribute(LINKINFO | _NESTED, rtnetlink.attribute(INFO_KIND, kind.encode() + b"\0"))
    bodies = channel.each(RTM_GETLINK, question(wanted), least=HEADER.size)
    # A kernel that has no such kind tells all links.
    return list(islice((link for link in map(Link.of, bodies) if link.kind == kind), _MAX_OF_A_KIND + 1))


def _name(body: bytes) -> str:
    # The kernel begins with it.
    for kind, value in rtnetlink.walk(body, HEADER.size):
        if kind == IFNAME:
            return rtnetlink.text(value.partition(b"\0")[0])
    raise ValueError(f"link {index_of(body)} has no name")


def _exit(body: bytes) -> Exit:
    # Soon after the name, as the rest need not be taken apart for it.
    mtu = next((value for kind, value in rtnetlink.walk(body, HEADER.size) if kind == MTU), None)
    return Exit(_name(body), None if mtu is None else rtnetlink.number({MTU: mtu}, MTU, 4))


def _brief(body: bytes) -> Brief:
    link = Link.of(body)
    return Brief(link.index, link.name, link.kind)
