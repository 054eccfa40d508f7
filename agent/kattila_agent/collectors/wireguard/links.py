"""Which links are WireGuard's: by their kind, which needs no privilege, never by their name.

May live here: what the readers are told of a link. Not here: asking the kernel (link_table).
"""

from __future__ import annotations

from dataclasses import dataclass

from kattila_agent.collectors import link_table


@dataclass(frozen=True, order=True, slots=True)
class Link:
    """One link: the kernel's number, its name as reports tell it, and as bytes."""

    index: int
    name: str
    raw_name: bytes


def read(kind: str) -> list[Link]:
    """Return the links of a kind, "wireguard" or "tun"; raises OSError or ValueError."""
    return [
        Link(link.index, link.name, link.found[link_table.IFNAME].partition(b"\0")[0])
        for link in link_table.of_kind(kind)
    ]
