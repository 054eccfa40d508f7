"""The remote ends that a vxlan floods to, as `bridge fdb show` lists them under 00:00:00:00:00:00."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace

from kattila_agent.collectors.limits import Bounded, cut, shares
from kattila_agent.collectors.link_table import LinkSummary
from kattila_agent.collectors.netlink import transport
from kattila_agent.collectors.netlink.codecs.rtnetlink import NEIGHBOUR
from kattila_agent.collectors.netlink.transport import Listed
from kattila_protocol.report import Cut, Tunnel

_index = NEIGHBOUR.reader("ifindex")
# The hardware address is the first attribute that the kernel writes. A table may have thousands of others.
_ANY_DESTINATION = NEIGHBOUR.encode(("NDA_LLADDR", bytes(6)))[NEIGHBOUR.size :]


def read(links: Iterable[LinkSummary], limit: int) -> dict[str, Listed]:
    """Return the first `limit` such entries (RTM_NEWNEIGH) of each vxlan, by name.

    Raises:
        OSError, ValueError: see `transport.retried`.
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
    request = NEIGHBOUR.encode(family=socket.AF_BRIDGE, ifindex=index)
    return transport.retried(
        lambda channel: channel.dump(
            NEIGHBOUR.request,
            request,
            limit,
            least=NEIGHBOUR.size,
            # A kernel that does not filter returns the entries of all links.
            wanted=lambda body: _index(body)[0] == index and body.startswith(_ANY_DESTINATION, NEIGHBOUR.size),
        )
    )


def _remote(body: bytes) -> str | None:
    remote: str | None = NEIGHBOUR.decode(body).get("NDA_DST")
    return remote
