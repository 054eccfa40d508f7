"""L2TPv3 pseudowires that carry Ethernet, as `ip l2tp show` shows them (RFC 3931, linux/l2tp.h).

Anyone may see such links, but the kernel requires CAP_NET_ADMIN to list their sessions and tunnels. Cookies, which
protect a session against forgery, are not read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kattila_agent.collectors.limits import Bounded, some
from kattila_agent.collectors.link_table import LinkSummary
from kattila_agent.collectors.netlink import genetlink
from kattila_agent.collectors.netlink.codecs.genetlink import L2TP
from kattila_agent.collectors.netlink.codecs.message import Message
from kattila_agent.collectors.netlink.transport import NetlinkChannel, Refused
from kattila_protocol.report import Tunnel

_LINKS = Path("/sys/class/net")
# Such a link has no kind; it is known by the type of its device.
_MARK = "DEVTYPE=l2tpeth"

# linux/l2tp.h
_VERSION = 1
_TUNNEL_GET, _SESSION_GET = 4, 8


@dataclass(frozen=True, slots=True)
class L2tpReadings:
    """The names of the links, and the messages about their sessions and about all tunnels, or the kernel's refusal."""

    links: tuple[str, ...]
    sessions: tuple[bytes, ...] = ()
    tunnels: tuple[bytes, ...] = ()
    refusal: str | None = None


def read(links: Iterable[LinkSummary], limit: int, folder: Path = _LINKS) -> L2tpReadings:
    """Read at most `limit` sessions and `limit` tunnels, if one of the links is such a pseudowire.

    Raises:
        OSError, ValueError: see `NetlinkChannel.each`; a refusal is not raised but returned.
    """
    names: list[str] = []
    for link in links:
        # The link may be gone again, or have a name that no file can have.
        with contextlib.suppress(OSError, ValueError):
            if (
                link.kind is None
                and _MARK in (folder / link.name / "uevent").read_text("utf-8", "replace").splitlines()
            ):
                names.append(link.name)
    if not names:
        return L2tpReadings(())
    try:
        return L2tpReadings(tuple(names), tuple(_dump(_SESSION_GET, limit)), tuple(_dump(_TUNNEL_GET, limit)))
    except Refused as refusal:
        return L2tpReadings(tuple(names), refusal=refusal.strerror)


def parse(readings: L2tpReadings) -> Bounded[Tunnel]:
    """Return the links as tunnels; after a refusal they have no ends, and a failure says why.

    Raises:
        ValueError: a message is malformed.
    """
    tunnels = {_id(tunnel, "L2TP_ATTR_CONN_ID"): tunnel for tunnel in map(L2TP.decode, readings.tunnels)}
    sessions = {session.get("L2TP_ATTR_IFNAME"): session for session in map(L2TP.decode, readings.sessions)}
    found = tuple(_tunnel(name, sessions.get(name), tunnels) for name in readings.links)
    if readings.refusal is None:
        return Bounded(found)
    return Bounded(found, failures=(f"the ends of {some(readings.links)} (l2tp): {readings.refusal}",))


def _dump(command: int, limit: int) -> list[bytes]:
    with genetlink.open_socket() as connection:
        channel = NetlinkChannel(connection)
        family = genetlink.family(channel, "l2tp")
        return channel.dump(family, L2TP.encode(cmd=command, version=_VERSION), limit).bodies


def _id(found: Message, name: str) -> int:
    number: int | None = found.get(name)
    if number is None:
        raise ValueError(f"l2tp without {name}")
    return number


def _tunnel(name: str, session: Message | None, tunnels: dict[int, Message]) -> Tunnel:
    # If something was made or removed between the two dumps, the next report shows it.
    tunnel = None if session is None else tunnels.get(_id(session, "L2TP_ATTR_CONN_ID"))
    if session is None or tunnel is None:
        return Tunnel(interface=name, kind="l2tp")
    return Tunnel(
        interface=name,
        kind="l2tp",
        local=tunnel.get("L2TP_ATTR_IP_SADDR") or tunnel.get("L2TP_ATTR_IP6_SADDR"),
        remote=tunnel.get("L2TP_ATTR_IP_DADDR") or tunnel.get("L2TP_ATTR_IP6_DADDR"),
        id=_id(tunnel, "L2TP_ATTR_CONN_ID"),
        ikey=_id(session, "L2TP_ATTR_SESSION_ID"),
        okey=_id(session, "L2TP_ATTR_PEER_SESSION_ID"),
        port=tunnel.get("L2TP_ATTR_UDP_DPORT") or None,
        peer_id=_id(tunnel, "L2TP_ATTR_PEER_CONN_ID"),
    )
