"""L2TPv3 pseudowires that carry Ethernet, as `ip l2tp show` tells them (RFC 3931, linux/l2tp.h).

May live here: finding such links, asking for their sessions and tunnels, and reading the answers. The kernel tells
them only who has CAP_NET_ADMIN; that there is such a link anybody may see. Cookies, which protect a session against
forgery, are not read.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kattila_agent.collectors.bounds import Bounded, some
from kattila_agent.collectors.link_table import Brief
from kattila_agent.collectors.netlink import genetlink, rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Attributes, Channel
from kattila_protocol.report import Tunnel

_LINKS = Path("/sys/class/net")
# Such a link has no kind, but the type of its device.
_MARK = "DEVTYPE=l2tpeth"

# linux/l2tp.h
_VERSION = 1
_TUNNEL_GET, _SESSION_GET = 4, 8
_IFNAME, _CONN_ID, _PEER_CONN_ID, _SESSION_ID, _PEER_SESSION_ID = 8, 9, 10, 11, 12
_IP_SADDR, _IP_DADDR, _UDP_DPORT, _IP6_SADDR, _IP6_DADDR = 24, 25, 27, 31, 32


@dataclass(frozen=True, slots=True)
class Readings:
    """What the kernel says: the names of the links, the bodies of their sessions and of all tunnels; or why not."""

    links: tuple[str, ...]
    sessions: tuple[bytes, ...] = ()
    tunnels: tuple[bytes, ...] = ()
    refusal: str | None = None


def read(links: Iterable[Brief], limit: int, folder: Path = _LINKS) -> Readings:
    """Ask for the sessions and tunnels, `limit` of each at most, but only if there is such a link.

    Raises:
        OSError, ValueError: see `rtnetlink.dump`; that the kernel refuses is told in the readings.
    """
    names = tuple(each.name for each in links if each.kind is None and _is_marked(folder / each.name))
    if not names:
        return Readings(())
    try:
        return Readings(names, tuple(_dump(_SESSION_GET, limit)), tuple(_dump(_TUNNEL_GET, limit)))
    except rtnetlink.Refused as refusal:
        return Readings(names, refusal=refusal.strerror)


def parse(readings: Readings) -> Bounded[Tunnel]:
    """Return the links' tunnels; those that the kernel does not tell of have no ends, and a failure says why.

    Raises:
        ValueError: a message is malformed.
    """
    tunnels = {_id(tunnel, _CONN_ID): tunnel for tunnel in map(_said, readings.tunnels)}
    sessions = {rtnetlink.string(session, _IFNAME): session for session in map(_said, readings.sessions)}
    told = (_tunnel(name, sessions.get(name), tunnels) for name in readings.links)
    failure = f"the ends of {some(readings.links)} (l2tp): {readings.refusal}"
    return Bounded(tuple(told), failures=(failure,) if readings.refusal else ())


def _is_marked(link: Path) -> bool:
    try:
        return _MARK in (link / "uevent").read_text("utf-8", "replace").splitlines()
    except (OSError, ValueError):
        # It is gone again, or has a name that no file can have.
        return False


def _dump(command: int, limit: int) -> list[bytes]:
    with Channel(genetlink.open_socket()) as channel:
        family = genetlink.family(channel, "l2tp")
        return channel.dump(family, genetlink.HEADER.pack(command, _VERSION, 0), limit).bodies


def _said(body: bytes) -> Attributes:
    return rtnetlink.attributes(body, genetlink.HEADER.size)


def _id(found: Attributes, kind: int) -> int:
    number = rtnetlink.number(found, kind, 4)
    if number is None:
        raise ValueError(f"l2tp without attribute {kind}")
    return number


def _tunnel(name: str, session: Attributes | None, tunnels: dict[int, Attributes]) -> Tunnel:
    # What was made or removed between the two answers is told next time.
    tunnel = None if session is None else tunnels.get(_id(session, _CONN_ID))
    if session is None or tunnel is None:
        return Tunnel(interface=name, kind="l2tp")
    return Tunnel(
        interface=name,
        kind="l2tp",
        local=_address(tunnel, _IP_SADDR, _IP6_SADDR),
        remote=_address(tunnel, _IP_DADDR, _IP6_DADDR),
        id=_id(tunnel, _CONN_ID),
        ikey=_id(session, _SESSION_ID),
        okey=_id(session, _PEER_SESSION_ID),
        port=rtnetlink.number(tunnel, _UDP_DPORT, 2) or None,
        peer_id=_id(tunnel, _PEER_CONN_ID),
    )


def _address(found: Attributes, inet: int, inet6: int) -> str | None:
    return rtnetlink.address(found, inet, socket.AF_INET) or rtnetlink.address(found, inet6, socket.AF_INET6)
