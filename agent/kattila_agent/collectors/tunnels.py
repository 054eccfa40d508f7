"""What links that carry packets inside of packets say of their ends, as `ip -details link` shows it.

May live here: reading such links kind by kind. Not here: WireGuard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kattila_agent.collectors import link_table
from kattila_agent.collectors.link_table import Brief, Link
from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Attributes
from kattila_protocol.report import Tunnel

# linux/if_tunnel.h: a key counts only where its flag is set.
_GRE_KEY = 0x2000
_ANY = ("0.0.0.0", "::")  # noqa: S104 - nothing is bound


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Which attribute says what, in the enum of a kind; 0, which no attribute is, where it has no such."""

    local: int
    remote: int
    ttl: int
    link: int = 0
    local6: int = 0
    remote6: int = 0
    id: int = 0
    port: int = 0
    ikey: int = 0
    okey: int = 0
    iflags: int = 0
    oflags: int = 0
    fwmark: int = 0


# IFLA_VXLAN_*, IFLA_GENEVE_*, IFLA_GRE_*, IFLA_IPTUN_*, IFLA_VTI_*
_VXLAN = _Numbers(id=1, remote=2, link=3, local=4, ttl=5, port=15, remote6=16, local6=17)
_GENEVE = _Numbers(local=0, id=1, remote=2, ttl=3, port=5, remote6=7)
_GRE = _Numbers(link=1, iflags=2, oflags=3, ikey=4, okey=5, local=6, remote=7, ttl=8, fwmark=20)
_IPTUN = _Numbers(link=1, local=2, remote=3, ttl=4, fwmark=20)
_VTI = _Numbers(link=1, ikey=2, okey=3, local=4, remote=5, fwmark=6, ttl=0)
KINDS: Mapping[str, _Numbers] = {
    "vxlan": _VXLAN,
    "geneve": _GENEVE,
    **dict.fromkeys(("gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan"), _GRE),
    **dict.fromkeys(("ipip", "sit", "ip6tnl"), _IPTUN),
    **dict.fromkeys(("vti", "vti6"), _VTI),
}


def read(links: Iterable[Brief]) -> list[bytes]:
    """Ask the kernel for each of these links again; one that is gone is left out.

    Raises:
        OSError, ValueError: see `Channel.ask`.
    """
    return list(link_table.each_of(link.index for link in links))


def parse(bodies: Iterable[bytes], names: Mapping[int, str]) -> tuple[Tunnel, ...]:
    """Return the tunnels among the links, in the kernel's order; raises ValueError if a message is malformed."""
    return tuple(tunnel for body in bodies if (tunnel := _tunnel(body, names)) is not None)


def _tunnel(body: bytes, names: Mapping[int, str]) -> Tunnel | None:
    link = Link.of(body)
    if link.kind is None or link.kind not in KINDS:
        return None
    said, at = link.details, KINDS[link.kind]
    # An index of another network namespace names nothing here.
    below = None if link_table.NETNSID in link.found else rtnetlink.number(said, at.link, 4)
    return Tunnel(
        interface=link.name,
        kind=link.kind,
        local=_address(said, at.local, at.local6),
        remote=_address(said, at.remote, at.remote6),
        id=rtnetlink.number(said, at.id, 4),
        ikey=_key(said, at.ikey, at.iflags),
        okey=_key(said, at.okey, at.oflags),
        port=rtnetlink.number(said, at.port, 2, "big"),
        ttl=rtnetlink.number(said, at.ttl, 1) or 0,
        fwmark=rtnetlink.number(said, at.fwmark, 4) or 0,
        link=names.get(below or 0),
    )


def _address(said: Attributes, *kinds: int) -> str | None:
    for kind in kinds:
        address = rtnetlink.address(said, kind)
        if address is not None and address not in _ANY:
            return address
    return None


def _key(said: Attributes, kind: int, flags: int) -> int | None:
    key = rtnetlink.number(said, kind, 4, "big")
    if not flags:
        return key or None
    return key if (rtnetlink.number(said, flags, 2, "big") or 0) & _GRE_KEY else None
