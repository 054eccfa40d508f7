"""The neighbour tables of both families (ARP, NDP), as `ip neighbour` shows them.

May live here: reading neighbours and naming their states.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kattila_agent.collectors import link_table
from kattila_agent.collectors.bounds import Bounded, cut, shares
from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Listed
from kattila_protocol.report import Neighbour

# linux/neighbour.h
_RTM_GETNEIGH = 30
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_NDA_DST, _NDA_LLADDR = 1, 2
_STATES = {
    0x01: "INCOMPLETE",
    0x02: "REACHABLE",
    0x04: "STALE",
    0x08: "DELAY",
    0x10: "PROBE",
    0x20: "FAILED",
    0x40: "NOARP",
    0x80: "PERMANENT",
}
# Multicast and the like, which nobody resolves (NUD_NOARP), are no neighbours, unless a program has learned of them
# (NTF_EXT_LEARNED), as a routing daemon of hosts behind a vxlan: `ip` has it so, too.
_SHOWN = 0xFF & ~0x40
_LEARNED = 0x10
_STATE_AND_FLAGS = struct.Struct("=8xHB")


@dataclass(frozen=True, slots=True)
class Readings:
    """What the kernel says: RTM_NEWNEIGH of both families, and the names of the links by index."""

    inet: Listed
    inet6: Listed
    names: Mapping[int, str]


def read(limit: int) -> Readings:
    """Ask the kernel for the neighbours of both families, the first `limit` of each; raises OSError or ValueError."""
    return Readings(_table(socket.AF_INET, limit), _table(socket.AF_INET6, limit), link_table.names_by_index())


def parse(readings: Readings, limit: int) -> Bounded[Neighbour]:
    """Return the neighbours in the kernel's order, of each family at least half of the limit if there are so many.

    Raises:
        ValueError: a message is malformed or lacks what every neighbour has.
    """
    families = (readings.inet, readings.inet6)
    granted = shares(limit, [family.total for family in families])
    told = tuple(
        neighbour
        for family, share in zip(families, granted, strict=True)
        for neighbour in _neighbours(family.bodies[:share], readings.names)
    )
    return Bounded(told, cut("neighbours", len(told), sum(family.total for family in families)))


def _table(family: int, limit: int) -> Listed:
    def room(buffer: bytes, start: int) -> int | None:
        state, flags = _STATE_AND_FLAGS.unpack_from(buffer, start)
        return limit if buffer[start] == family and (state & _SHOWN or flags & _LEARNED) else None

    question = _NEIGHBOUR.pack(family, 0, 0, 0, 0)
    return rtnetlink.dump(_RTM_GETNEIGH, question, room, least=_NEIGHBOUR.size)


def _neighbours(bodies: list[bytes], names: Mapping[int, str]) -> Iterator[Neighbour]:
    for body in bodies:
        family, index, state, _, _ = rtnetlink.header(_NEIGHBOUR, body)
        found = rtnetlink.attributes(body, _NEIGHBOUR.size)
        destination = rtnetlink.address(found, _NDA_DST, family)
        if destination is None:
            raise ValueError("a neighbour without an address")
        yield Neighbour(
            destination=destination,
            address=_hardware_address(found.get(_NDA_LLADDR)),
            interface=names.get(index, f"if{index}"),
            state=_STATES.get(state, f"{state:#x}"),
        )


def _hardware_address(address: bytes | None) -> str | None:
    if not address:
        return None
    # Four bytes are the IPv4 address of a tunnel's other end.
    return socket.inet_ntop(socket.AF_INET, address) if len(address) == 4 else address.hex(":")
