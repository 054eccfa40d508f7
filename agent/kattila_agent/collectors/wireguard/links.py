"""Which links are WireGuard's: by their kind, which needs no privilege, never by their name.

May live here: asking the kernel for the links of a kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from kattila_agent.collectors import link_table, rtnetlink
from kattila_agent.collectors.rtnetlink import Channel

_NESTED = 0x8000
_MAX_LINKS = 10_000


@dataclass(frozen=True, order=True, slots=True)
class Link:
    """One link: the kernel's number, its name as reports tell it, and as bytes."""

    index: int
    name: str
    raw_name: bytes


def read(kind: str) -> list[Link]:
    """Return the links of a kind, "wireguard" or "tun"; raises OSError or ValueError."""
    found = rtnetlink.settled(lambda channel: _of_kind(channel, kind.encode() + b"\0"))
    if len(found) > _MAX_LINKS:
        raise ValueError(f"more than {_MAX_LINKS} links of the kind {kind}")
    return found


def _of_kind(channel: Channel, kind: bytes) -> list[Link]:
    asked = rtnetlink.attribute(link_table.LINKINFO | _NESTED, rtnetlink.attribute(link_table.INFO_KIND, kind))
    bodies = channel.each(link_table.RTM_GETLINK, link_table.question(asked), least=link_table.HEADER.size)
    # A kernel that has no such kind tells all links.
    links = (link for body in bodies if (link := _link(body, kind)) is not None)
    return list(islice(links, _MAX_LINKS + 1))


def _link(body: bytes, kind: bytes) -> Link | None:
    found = rtnetlink.attributes(body, link_table.HEADER.size)
    info = rtnetlink.attributes(found.get(link_table.LINKINFO, b""))
    if info.get(link_table.INFO_KIND) != kind:
        return None
    raw_name = found.get(link_table.IFNAME, b"").partition(b"\0")[0]
    if not raw_name:
        raise ValueError("a link without a name")
    _, _, index, _, _ = link_table.HEADER.unpack_from(body)
    return Link(index, rtnetlink.text(raw_name), raw_name)
