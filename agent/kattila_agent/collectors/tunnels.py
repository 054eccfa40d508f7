"""Tunnel links other than WireGuard and their ends, as `ip -details link` shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kattila_agent.collectors import link_table
from kattila_agent.collectors.link_table import Link
from kattila_agent.collectors.netlink import rtnetlink
from kattila_agent.collectors.netlink.rtnetlink import Attributes
from kattila_protocol.report import Tunnel

# linux/if_tunnel.h: a key is only valid if its flag is set.
_GRE_KEY = 0x2000
_ANY = ("0.0.0.0", "::")  # noqa: S104 - nothing is bound


@dataclass(frozen=True, slots=True)
class _AttributeNumbers:
    """The attribute numbers of a kind of tunnel; 0, which no attribute has, for those that the kind lacks."""

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
_VXLAN = _AttributeNumbers(id=1, remote=2, link=3, local=4, ttl=5, port=15, remote6=16, local6=17)
_GENEVE = _AttributeNumbers(local=0, id=1, remote=2, ttl=3, port=5, remote6=7)
_GRE = _AttributeNumbers(link=1, iflags=2, oflags=3, ikey=4, okey=5, local=6, remote=7, ttl=8, fwmark=20)
_IPTUN = _AttributeNumbers(link=1, local=2, remote=3, ttl=4, fwmark=20)
_VTI = _AttributeNumbers(link=1, ikey=2, okey=3, local=4, remote=5, fwmark=6, ttl=0)
KINDS: Mapping[str, _AttributeNumbers] = {
    "vxlan": _VXLAN,
    "geneve": _GENEVE,
    **dict.fromkeys(("gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan"), _GRE),
    **dict.fromkeys(("ipip", "sit", "ip6tnl"), _IPTUN),
    **dict.fromkeys(("vti", "vti6"), _VTI),
}


def parse(bodies: Iterable[bytes], names: Mapping[int, str]) -> tuple[Tunnel, ...]:
    """Return the tunnels among these links (RTM_NEWLINK), in order; `names` are those of all links by index.

    Raises:
        ValueError: a message is malformed.
    """
    return tuple(tunnel for body in bodies if (tunnel := _tunnel(body, names)) is not None)


def _tunnel(body: bytes, names: Mapping[int, str]) -> Tunnel | None:
    link = Link.of(body)
    if link.kind is None or link.kind not in KINDS:
        return None
    details, at = link.details, KINDS[link.kind]
    # An index in another network namespace would name the wrong link here.
    below = None if link_table.NETNSID in link.attributes else rtnetlink.number(details, at.link, 4)
    return Tunnel(
        interface=link.name,
        kind=link.kind,
        local=_address(details, at.local, at.local6),
        remote=_address(details, at.remote, at.remote6),
        id=rtnetlink.number(details, at.id, 4),
        ikey=_key(details, at.ikey, at.iflags),
        okey=_key(details, at.okey, at.oflags),
        port=rtnetlink.number(details, at.port, 2, "big"),
        ttl=rtnetlink.number(details, at.ttl, 1) or 0,
        fwmark=rtnetlink.number(details, at.fwmark, 4) or 0,
        link=names.get(below or 0),
    )


def _address(details: Attributes, *kinds: int) -> str | None:
    for kind in kinds:
        address = rtnetlink.address(details, kind)
        if address is not None and address not in _ANY:
            return address
    return None


def _key(details: Attributes, kind: int, flags: int) -> int | None:
    key = rtnetlink.number(details, kind, 4, "big")
    if not flags:
        return key or None
    return key if (rtnetlink.number(details, flags, 2, "big") or 0) & _GRE_KEY else None
