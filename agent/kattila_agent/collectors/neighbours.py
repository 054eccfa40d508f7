"""The neighbour tables of both families (ARP, NDP), as `ip neighbour` shows them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from kattila_agent.collectors import link_table
from kattila_agent.collectors.limits import Bounded, cut, shares
from kattila_agent.collectors.netlink import transport
from kattila_agent.collectors.netlink.codecs.rtnetlink import NEIGHBOUR
from kattila_agent.collectors.netlink.transport import Listed
from kattila_protocol.report import Neighbour

_header = NEIGHBOUR.reader("family", "state", "flags")
# linux/neighbour.h
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
# Like `ip`, leave out multicast and other entries that are never resolved (NUD_NOARP), unless a program such as a
# routing daemon added them (NTF_EXT_LEARNED).
_SHOWN = 0xFF & ~0x40
_LEARNED = 0x10


@dataclass(frozen=True, slots=True)
class NeighbourReadings:
    """What the kernel returned: RTM_NEWNEIGH of both families, and the names of the links by index."""

    inet: Listed
    inet6: Listed
    names: Mapping[int, str]


def read(limit: int) -> NeighbourReadings:
    """Read the first `limit` neighbours of each family (rtnetlink(7)); raises OSError or ValueError."""
    inet, inet6 = _read_family(socket.AF_INET, limit), _read_family(socket.AF_INET6, limit)
    return NeighbourReadings(inet, inet6, link_table.read_by_index(link_table.name))


def parse(readings: NeighbourReadings, limit: int) -> Bounded[Neighbour]:
    """Return the neighbours in the kernel's order; each family gets half of the limit, or more if it is free.

    Raises:
        ValueError: a message is malformed, or lacks what every neighbour has.
    """
    families = (readings.inet, readings.inet6)
    granted = shares(limit, [family.total for family in families])
    neighbours = tuple(
        _neighbour(body, readings.names)
        for family, share in zip(families, granted, strict=True)
        for body in family.bodies[:share]
    )
    return Bounded(neighbours, cut("neighbours", len(neighbours), sum(family.total for family in families)))


def _read_family(family: int, limit: int) -> Listed:
    request = NEIGHBOUR.encode(family=family)
    return transport.retried(
        lambda channel: channel.dump(
            NEIGHBOUR.request,
            request,
            limit,
            least=NEIGHBOUR.size,
            wanted=lambda body: (header := _header(body))[0] == family and (header[1] & _SHOWN or header[2] & _LEARNED),
        )
    )


def _neighbour(body: bytes, names: Mapping[int, str]) -> Neighbour:
    found = NEIGHBOUR.decode(body)
    index, state = found.fields["ifindex"], found.fields["state"]
    destination = found.get("NDA_DST")
    if destination is None:
        raise ValueError("a neighbour without an address")
    address = found.get("NDA_LLADDR") or b""
    return Neighbour(
        destination=destination,
        # Four bytes are the IPv4 address of a tunnel's remote end.
        address=(socket.inet_ntop(socket.AF_INET, address) if len(address) == 4 else address.hex(":")) or None,
        interface=names.get(index, f"if{index}"),
        state=_STATES.get(state, f"{state:#x}"),
    )
