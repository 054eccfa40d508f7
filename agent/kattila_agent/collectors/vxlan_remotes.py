"""The remote ends that a vxlan floods to, as `bridge fdb show` lists them under 00:00:00:00:00:00."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import replace

from kattila_agent.collectors.limits import Bounded, cut, shares
from kattila_agent.collectors.link_table import LinkSummary
from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Listed
from kattila_protocol.report import Cut, Tunnel

# linux/neighbour.h: struct ndmsg with its index
_RTM_GETNEIGH = 30
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_INDEX = struct.Struct("=4xi")
_NDA_DST, _NDA_LLADDR = 1, 2
# The hardware address is the first attribute that the kernel writes.
_ANY_DESTINATION = struct.pack("=HH", 4 + 6, _NDA_LLADDR) + bytes(6)


def read(links: Iterable[LinkSummary], limit: int) -> dict[str, Listed]:
    """Return the first `limit` such entries (RTM_NEWNEIGH) of each vxlan, by name.

    Raises:
        OSError, ValueError: see `rtnetlink.retried`.
    """
    return {each.name: _read_link(each.index, limit) for each in links if each.kind == "vxlan"}


def parse(tunnels: Iterable[Tunnel], tables: Mapping[str, Listed], limit: int) -> Bounded[Tunnel]:
    """Return the tunnels with `remotes` filled in, except the address in `remote`; all have `limit` together.

    Raises:
        ValueError: a message is malformed.
    """
    granted = dict(zip(tables, shares(limit, [table.total for table in tables.values()]), strict=True))
    found: list[Tunnel] = []
    cuts: list[Cut] = []
    for tunnel in tunnels:
        table, most = tables.get(tunnel.interface, Listed([], 0)), granted.get(tunnel.interface, 0)
        remotes = dict.fromkeys(remote for body in table.bodies[:most] if (remote := _remote(body)) is not None)
        found.append(replace(tunnel, remotes=tuple(remote for remote in remotes if remote != tunnel.remote)))
        cuts += cut("remotes", most, table.total, tunnel.interface)
    return Bounded(tuple(found), tuple(cuts))


def _read_link(index: int, limit: int) -> Listed:
    request = _NEIGHBOUR.pack(socket.AF_BRIDGE, index, 0, 0, 0)
    return rtnetlink.retried(
        lambda channel: channel.dump(
            _RTM_GETNEIGH,
            request,
            limit,
            least=_NEIGHBOUR.size,
            # A kernel that does not filter returns the entries of all links.
            wanted=lambda body: (
                _INDEX.unpack_from(body)[0] == index and body.startswith(_ANY_DESTINATION, _NEIGHBOUR.size)
            ),
        )
    )


def _remote(body: bytes) -> str | None:
    return rtnetlink.address(dict(rtnetlink.attributes(body, _NEIGHBOUR.size)), _NDA_DST)
