"""Requests for links (RTM_GETLINK) and what every answer to them has; shared by the collectors."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

from kattila_agent.collectors.netlink import transport
from kattila_agent.collectors.netlink.codecs.message import Message
from kattila_agent.collectors.netlink.codecs.rtnetlink import LINK
from kattila_agent.collectors.netlink.transport import Refused

_Decoded = TypeVar("_Decoded")

_MAX_OF_A_KIND = 10_000
# Without a mask, a dump ends silently before a link whose message is larger than the kernel's usual buffer, such as a
# link with hundreds of alternative names. With any bit set, the kernel first measures all messages.
# RTEXT_FILTER_SKIP_STATS leaves out the counters, which change all the time.
_WITHOUT_COUNTERS = 1 << 3
_index = LINK.reader("index")


@dataclass(frozen=True, slots=True)
class Link:
    """A decoded RTM_NEWLINK; `type` is its ARPHRD_*, `kind` is None for hardware.

    `info` are the attributes of IFLA_LINKINFO, and `details` those that only this kind has, empty for undeclared kinds.
    """

    type: int
    index: int
    flags: int
    name: str
    kind: str | None
    message: Message
    info: Message | Mapping[str, Any]
    details: Message | Mapping[str, Any]

    @classmethod
    def of(cls, body: bytes) -> Link:
        """Decode a message; raises ValueError if it is malformed or has no name."""
        message = LINK.decode(body)
        index, link_type, flags = (message.fields[name] for name in ("index", "ifi_type", "flags"))
        name = message.get("IFLA_IFNAME")
        if name is None:
            raise ValueError(f"link {index} has no name")
        info: Message | Mapping[str, Any] = message.get("IFLA_LINKINFO") or {}
        details = info.get("IFLA_INFO_DATA")
        if not isinstance(details, Message):
            details = {}
        return cls(link_type, index, flags, name, info.get("IFLA_INFO_KIND"), message, info, details)


@dataclass(frozen=True, slots=True)
class LinkSummary:
    """Index, name, kind and MTU of a link; `kind` is None for hardware."""

    index: int
    name: str
    kind: str | None
    mtu: int | None = None


def request(*selecting: tuple[str, Any], index: int = 0) -> bytes:
    """Return the body of a request for all links, for those that further attributes select, or for one link."""
    return LINK.encode(("IFLA_EXT_MASK", _WITHOUT_COUNTERS), *selecting, index=index)


def read_kind(kind: str) -> list[Link]:
    """Return the links of a kind such as "wireguard"; needs no privilege.

    Raises:
        OSError, ValueError: see `transport.retried`, or there are more than 10,000.
    """
    selecting = ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]})

    found = transport.retried(
        lambda channel: list(
            islice(
                # A kernel that does not know the kind returns all links.
                (
                    Link.of(body)
                    for body in channel.each(LINK.request, request(selecting), least=LINK.size)
                    if summary(body).kind == kind
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
    with transport.opened() as channel:
        for index in indexes:
            try:
                yield channel.request(LINK.request, request(index=index))
            except Refused as refusal:
                if refusal.errno != errno.ENODEV:
                    raise


def read_by_index(decode: Callable[[bytes], _Decoded]) -> dict[int, _Decoded]:
    """Return a value for each link by its index, in the kernel's order; `decode` takes the body of a message.

    If links keep coming and going, those may be missing. if_nameindex(3) would send no mask, and miss all links after a
    large message.

    Raises:
        OSError, ValueError: see `transport.retried`.
    """
    return transport.retried(
        lambda channel: {
            _index(body)[0]: decode(body) for body in channel.each(LINK.request, request(), least=LINK.size)
        },
        accept_changes=True,
    )


# Decoding a link takes long, several collectors read all links, and few links change.
@lru_cache(maxsize=4096)
def summary(body: bytes) -> LinkSummary:
    """Return index, name, kind and MTU of a link; raises ValueError if it is malformed."""
    link = Link.of(body)
    return LinkSummary(link.index, link.name, link.kind, link.message.get("IFLA_MTU"))


def name(body: bytes) -> str:
    """Return the name of a link; raises ValueError if it is malformed."""
    return summary(body).name
