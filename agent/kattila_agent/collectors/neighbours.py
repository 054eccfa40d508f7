"""The neighbour tables of both families (ARP, NDP), as `ip neighbour` shows them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from kattila_agent.collectors import link_table
from kattila_agent.collectors.limits import Bounded, cut, shares
from kattila_agent.collectors.netlink import transport
from kattila_agent.collectors.netlink.codecs.rtnetlink import NEIGHBOUR
from kattila_agent.collectors.netlink.transport import Listed
from kattila_protocol.report import Neighbour, PolicyRoute, Route

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
# struct nda_cacheinfo has times in ticks of the user's clock.
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Whose neighbours are reported even from a long table.
_MOST_GATEWAYS = 64


@dataclass(frozen=True, slots=True)
class NeighbourReadings:
    """What the kernel returned: RTM_NEWNEIGH of both families, and the names of the links by index.

    `read_at_ms` is the reading of CLOCK_BOOTTIME then. `gateways` are those that come first if the table is cut.
    """

    inet: Listed
    inet6: Listed
    names: Mapping[int, str]
    read_at_ms: int
    gateways: Collection[str] = ()


def read(limit: int, routes: Sequence[Route | PolicyRoute], since_boot_ms: Callable[[], int]) -> NeighbourReadings:
    """Read the first `limit` neighbours of each family, and those of the gateways of these routes (rtnetlink(7)).

    Raises:
        OSError, ValueError: see `transport.retried`.
    """
    default_first = sorted(routes, key=lambda route: not route.destination.endswith("/0"))
    gateways = tuple(islice(dict.fromkeys(route.gateway for route in default_first if route.gateway), _MOST_GATEWAYS))
    inet, inet6 = (_read_family(family, limit, gateways) for family in (socket.AF_INET, socket.AF_INET6))
    return NeighbourReadings(inet, inet6, link_table.read_by_index(link_table.name), since_boot_ms(), gateways)


def parse(readings: NeighbourReadings, limit: int) -> Bounded[Neighbour]:
    """Return the neighbours in the kernel's order; each family gets half of the limit, or more if it is free.

    If the table is cut, the gateways come first: the hardware address of a gateway is the best proof that two nodes are
    in one segment.

    Raises:
        ValueError: a message is malformed, or lacks what every neighbour has.
    """
    families = (readings.inet, readings.inet6)
    total = sum(family.total for family in families)
    granted = shares(limit, [family.total for family in families])
    rows: list[tuple[Neighbour, int | None]] = []
    for family, share in zip(families, granted, strict=True):
        found = [_neighbour(body, readings) for body in family.bodies[: None if total > limit else share]]
        if total > limit:
            found.sort(key=lambda row: row[0].destination not in readings.gateways)
        rows += found[:share]
    return Bounded(
        tuple(neighbour for neighbour, _ in rows),
        cut("neighbours", len(rows), total),
        marks={"neighbours_confirmed": tuple(confirmed for _, confirmed in rows)},
    )


def _read_family(family: int, limit: int, gateways: Collection[str]) -> Listed:
    request = NEIGHBOUR.encode(family=family)
    packed = [socket.inet_pton(family, each) for each in gateways if (":" in each) == (family == socket.AF_INET6)]
    # Decoding each of a million rows would take a minute. A row that contains these bytes elsewhere is harmless.
    may_be_gateway = re.compile(b"|".join(map(re.escape, packed)) if packed else b"(?!)").search
    return transport.retried(
        lambda channel: channel.dump(
            NEIGHBOUR.request,
            request,
            limit,
            least=NEIGHBOUR.size,
            wanted=lambda body: (header := _header(body))[0] == family and (header[1] & _SHOWN or header[2] & _LEARNED),
            spared=lambda body: may_be_gateway(body, NEIGHBOUR.size),
        )
    )


def _neighbour(body: bytes, readings: NeighbourReadings) -> tuple[Neighbour, int | None]:
    """Return a row, and when the kernel last confirmed it, in whole seconds since the boot; None if it does not say."""
    found = NEIGHBOUR.decode(body)
    index, state = found.fields["ifindex"], found.fields["state"]
    destination = found.get("NDA_DST")
    if destination is None:
        raise ValueError("a neighbour without an address")
    address = found.get("NDA_LLADDR") or b""
    row = Neighbour(
        destination=destination,
        # Four bytes are the IPv4 address of a tunnel's remote end.
        address=(socket.inet_ntop(socket.AF_INET, address) if len(address) == 4 else address.hex(":")) or None,
        interface=readings.names.get(index, f"if{index}"),
        state=_STATES.get(state, f"{state:#x}"),
    )
    times = found.get("NDA_CACHEINFO")
    if times is None:
        return row, None
    return row, max(0, round(readings.read_at_ms / 1000 - times["ndm_confirmed"] / _TICKS_PER_SECOND))
