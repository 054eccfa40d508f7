"""Which links are WireGuard's: by their kind, which needs no privilege, never by their name.

May live here: asking the kernel for the links of a kind.
"""

from __future__ import annotations

from dataclasses import dataclass

from kattila_agent.collectors import rtnetlink

_GET_LINK = 18
_HEADER_BYTES = 16
_NAME = 3
_LINK_INFO = 18
_KIND = 1
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
    marked = rtnetlink.attribute(_KIND, kind.encode() + b"\0")
    question = bytes(_HEADER_BYTES) + rtnetlink.attribute(_LINK_INFO | _NESTED, marked)

    def is_of_kind(buffer: bytes, start: int) -> bool:
        # A kernel that has no such kind tells all links.
        length = int.from_bytes(buffer[start - _HEADER_BYTES : start - _HEADER_BYTES + 4], rtnetlink.ORDER)
        return marked in buffer[start : start - _HEADER_BYTES + length]

    found = rtnetlink.dump(_GET_LINK, question, _MAX_LINKS, counts=is_of_kind)
    if found.total > _MAX_LINKS:
        raise ValueError(f"{found.total} links of the kind {kind}, more than {_MAX_LINKS}")
    return [_link(body) for body in found.bodies]


def _link(body: bytes) -> Link:
    raw_name = rtnetlink.attributes(body, _HEADER_BYTES).get(_NAME, b"").partition(b"\0")[0]
    if not raw_name:
        raise ValueError("a link without a name")
    return Link(int.from_bytes(body[4:8], rtnetlink.ORDER), rtnetlink.text(raw_name), raw_name)
