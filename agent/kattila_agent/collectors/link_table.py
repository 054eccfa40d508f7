"""Requests for links (RTM_GETLINK) and what every answer to them has; shared by the collectors."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Attributes, Refused

_Decoded = TypeVar("_Decoded")

# linux/rtnetlink.h: struct ifinfomsg with its type, index and flags
RTM_GETLINK = 18
HEADER = struct.Struct("=BxHiII")
# linux/if_link.h
IFNAME, MTU, LINKINFO, NETNSID = 3, 4, 18, 37
INFO_KIND, INFO_DATA = 1, 2

_EXT_MASK = 29
_NESTED = 0x8000
_MAX_OF_A_KIND = 10_000
# Without a mask, a dump ends silently before a link whose message is larger than the kernel's usual buffer, such as a
# link with hundreds of alternative names. With any bit set, the kernel first measures all messages.
# RTEXT_FILTER_MRP adds nothing outside of a bridge's own dump; RTEXT_FILTER_SKIP_STATS leaves out the counters.
_WHOLE, _WITHOUT_COUNTERS = 1 << 4, 1 << 3


@dataclass(frozen=True, slots=True)
class Link:
    """A decoded RTM_NEWLINK; `type` is its ARPHRD_*, `kind` is None for hardware."""

    type: int
    index: int
    flags: int
    name: str
    kind: str | None
    attributes: Attributes
    info: Attributes

    @classmethod
    def of(cls, body: bytes) -> Link:
        """Decode a message; raises ValueError if it is malformed or has no name."""
        attributes = dict(rtnetlink.attributes(body, HEADER.size))
        _, link_type, index, flags, _ = HEADER.unpack_from(body)
        info = dict(rtnetlink.attributes(attributes.get(LINKINFO, b"")))
        name = rtnetlink.string(attributes, IFNAME)
        if name is None:
            raise ValueError(f"link {index} has no name")
        return cls(link_type, index, flags, name, rtnetlink.string(info, INFO_KIND), attributes, info)

    @property
    def details(self) -> Attributes:
        """The attributes that only links of this kind have; raises ValueError if they are malformed."""
        return dict(rtnetlink.attributes(self.info.get(INFO_DATA, b"")))


@dataclass(frozen=True, slots=True)
class LinkSummary:
    """Index, name and kind of a link; `kind` is None for hardware."""

    index: int
    name: str
    kind: str | None


class OutgoingLink(NamedTuple):
    """Name and MTU of the link that packets leave by."""

    name: str
    mtu: int | None


def request(*selecting: bytes, index: int = 0, counters: bool = False) -> bytes:
    """Return the body of a request for all links, for those that further attributes select, or for one link."""
    mask = struct.pack("=I", _WHOLE if counters else _WITHOUT_COUNTERS)
    return HEADER.pack(0, 0, index, 0, 0) + rtnetlink.attribute(_EXT_MASK, mask) + b"".join(selecting)


def read_kind(kind: str) -> list[Link]:
    """Return the links of a kind such as "wireguard"; needs no privilege.

    Raises:
        OSError, ValueError: see `rtnetlink.retried`, or there are more than 10,000.
    """
    selecting = rtnetlink.attribute(LINKINFO | _NESTED, rtnetlink.attribute(INFO_KIND, kind.encode() + b"\0"))

    found = rtnetlink.retried(
        lambda channel: list(
            islice(
                # A kernel that does not know the kind returns all links.
                (
                    link
                    for link in map(Link.of, channel.each(RTM_GETLINK, request(selecting), least=HEADER.size))
                    if link.kind == kind
                ),
                _MAX_OF_A_KIND + 1,
            )
        )
    )
    if len(found) > _MAX_OF_A_KIND:
        raise ValueError(f"more than {_MAX_OF_A_KIND} links of the kind {kind}")
    return found


def read_each(indexes: Iterable[int]) -> Iterator[bytes]:
    """Yield the messages about these links, except those that are gone; raises as `NetlinkChannel.each` does."""
    with rtnetlink.opened() as channel:
        for index in indexes:
            try:
                yield channel.request(RTM_GETLINK, request(index=index))
            except Refused as refusal:
                if refusal.errno != errno.ENODEV:
                    raise


def read_by_index(decode: Callable[[bytes], _Decoded]) -> dict[int, _Decoded]:
    """Return a value for each link by its index, in the kernel's order; `decode` takes the body of a message.

    If links keep coming and going, those may be missing. if_nameindex(3) would send no mask, and miss all links after a
    large message.

    Raises:
        OSError, ValueError: see `rtnetlink.retried`.
    """
    return rtnetlink.retried(
        lambda channel: {
            HEADER.unpack_from(body)[2]: decode(body)
            for body in channel.each(RTM_GETLINK, request(), least=HEADER.size)
        },
        accept_changes=True,
    )


def name(body: bytes) -> str:
    """Return the name of a link; raises ValueError if it has none."""
    # It is the first attribute that the kernel writes.
    for kind, value in rtnetlink.attributes(body, HEADER.size):
        if kind == IFNAME:
            return rtnetlink.text(value.partition(b"\0")[0])
    raise ValueError(f"link {HEADER.unpack_from(body)[2]} has no name")


def outgoing(body: bytes) -> OutgoingLink:
    """Return name and MTU of a link; raises ValueError if it is malformed."""
    # The MTU soon follows the name, so the other attributes are not decoded.
    mtu = next((value for kind, value in rtnetlink.attributes(body, HEADER.size) if kind == MTU), None)
    return OutgoingLink(name(body), None if mtu is None else rtnetlink.number({MTU: mtu}, MTU, 4))


def summary(body: bytes) -> LinkSummary:
    """Return index, name and kind of a link, several times as slowly as `name`; raises ValueError if malformed."""
    link = Link.of(body)
    return LinkSummary(link.index, link.name, link.kind)
