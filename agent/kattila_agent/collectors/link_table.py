"""Asking the kernel for its table of links (RTM_GETLINK), and the names of all links by their number.

May live here: what every such question needs, and what says nothing but which link is which. Not here: what a link says
of itself (links) or of its ends (tunnels).
"""

from __future__ import annotations

import struct

from kattila_agent.collectors import rtnetlink

# linux/rtnetlink.h: struct ifinfomsg, and its type, index and flags
RTM_GETLINK = 18
HEADER = struct.Struct("=BxHiII")
# linux/if_link.h
IFNAME, LINKINFO, NETNSID = 3, 18, 37
INFO_KIND, INFO_DATA = 1, 2

_EXT_MASK = 29
# A dump that asks for nothing special ends without a word before a link whose message is larger than the kernel's usual
# buffer, as that of one with hundreds of alternative names. Any bit of the mask has the kernel measure them all first:
# RTEXT_FILTER_MRP adds nothing outside of bridges' own dumps, RTEXT_FILTER_SKIP_STATS leaves the counters out.
_WHOLE, _WITHOUT_COUNTERS = 1 << 4, 1 << 3


def question(*selecting: bytes, counters: bool = False) -> bytes:
    """Return the body that asks for all links, or for those that further attributes select."""
    mask = struct.pack("=I", _WHOLE if counters else _WITHOUT_COUNTERS)
    return bytes(HEADER.size) + rtnetlink.attribute(_EXT_MASK, mask) + b"".join(selecting)


def names_by_index() -> dict[int, str]:
    """Return the names of all links, as `rtnetlink.text` shows them.

    if_nameindex(3) asks without a mask, and so misses what comes after a large message.

    Raises:
        OSError, ValueError: see `rtnetlink.settled`.
    """
    return rtnetlink.settled(
        lambda channel: dict(map(_named, channel.each(RTM_GETLINK, question(), least=HEADER.size)))
    )


def _named(body: bytes) -> tuple[int, str]:
    _, _, index, _, _ = HEADER.unpack_from(body)
    for kind, value in rtnetlink.walk(body, HEADER.size):
        if kind == IFNAME:
            return index, rtnetlink.text(value.partition(b"\0")[0])
    raise ValueError(f"link {index} has no name")
