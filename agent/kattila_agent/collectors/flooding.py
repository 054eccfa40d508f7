"""Where a vxlan sends what it knows no destination for, as `bridge fdb show` tells it under 00:00:00:00:00:00.

May live here: reading that part of the forwarding table. Not here: the vxlan itself (tunnels).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace

from kattila_agent.collectors.bounds import Bounded, cut, shares
from kattila_agent.collectors.link_table import Brief
from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Listed
from kattila_protocol.report import Cut, Tunnel

# linux/neighbour.h
_RTM_GETNEIGH = 30
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_INDEX = struct.Struct("=i")
_INDEX_AT = 4
_NDA_DST, _NDA_LLADDR = 1, 2
# The kernel begins an entry with its hardware address.
_ANY_DESTINATION = struct.pack("=HH", 4 + 6, _NDA_LLADDR) + bytes(6)


def read(links: Iterable[Brief], limit: int) -> dict[str, Listed]:
    """Return RTM_NEWNEIGH of each vxlan's destinations for what it knows none for, the first `limit` of each.

    Raises:
        OSError, ValueError: see `rtnetlink.dump`.
    """
    return {each.name: _table(each.index, limit) for each in links if each.kind == "vxlan"}


def parse(tunnels: Iterable[Tunnel], tables: Mapping[str, Listed], limit: int) -> Bounded[Tunnel]:
    """Return the tunnels with their `remotes`, the one in `remote` aside; at most `limit` of all together.

    Raises:
        ValueError: a message is malformed.
    """
    granted = dict(zip(tables, shares(limit, [table.total for table in tables.values()]), strict=True))
    told: list[Tunnel] = []
    cuts: list[Cut] = []
    for tunnel in tunnels:
        table, most = tables.get(tunnel.interface, Listed([], 0)), granted.get(tunnel.interface, 0)
        found = dict.fromkeys(remote for body in table.bodies[:most] if (remote := _remote(body)) is not None)
        told.append(replace(tunnel, remotes=tuple(remote for remote in found if remote != tunnel.remote)))
        cuts += cut("remotes", most, table.total, tunnel.interface)
    return Bounded(tuple(told), tuple(cuts))


def _table(index: int, limit: int) -> Listed:
    def room(buffer: bytes, start: int) -> int | None:
        # A kernel that does not filter tells the entries of all links.
        of_link = _INDEX.unpack_from(buffer, start + _INDEX_AT)[0] == index
        is_told = of_link and buffer.startswith(_ANY_DESTINATION, start + _NEIGHBOUR.size)
        return limit if is_told else None

    question = _NEIGHBOUR.pack(socket.AF_BRIDGE, index, 0, 0, 0)
    return rtnetlink.dump(_RTM_GETNEIGH, question, room, least=_NEIGHBOUR.size)


def _remote(body: bytes) -> str | None:
    return rtnetlink.address(rtnetlink.attributes(body, _NEIGHBOUR.size), _NDA_DST)
