"""Tunnel links other than WireGuard and their ends, as `ip -details link` shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

from kattila_agent.collectors.link_table import Link
from kattila_protocol.report import Tunnel

# linux/if_tunnel.h: a key is only valid if its flag is set.
_GRE_KEY = 0x2000
_ANY = ("0.0.0.0", "::")  # noqa: S104 - nothing is bound

# How the names of a kind's attributes begin. A kind has some of LOCAL, REMOTE, ID, PORT and the like.
KINDS: Mapping[str, str] = {
    "vxlan": "IFLA_VXLAN_",
    "geneve": "IFLA_GENEVE_",
    **dict.fromkeys(("gre", "gretap", "erspan"), "IFLA_GRE_"),
    **dict.fromkeys(("ip6gre", "ip6gretap", "ip6erspan"), "IFLA_IP6GRE_"),
    "ipip": "IFLA_IPIP_",
    "sit": "IFLA_SIT_",
    "ip6tnl": "IFLA_IP6TNL_",
    **dict.fromkeys(("vti", "vti6"), "IFLA_VTI_"),
}


def parse(bodies: Iterable[bytes], names: Mapping[int, str]) -> tuple[Tunnel, ...]:
    """Return the tunnels among these links (RTM_NEWLINK), in order; `names` are those of all links by index.

    Raises:
        ValueError: a message is malformed.
    """
    found = map(_tunnel, bodies)
    return tuple(replace(tunnel, link=names.get(below)) for tunnel, below in filter(None, found))


# Few tunnels change between two reports.
@lru_cache(maxsize=1024)
def _tunnel(body: bytes) -> tuple[Tunnel, int] | None:
    """Return a tunnel without the name of the link that it is bound to, and the index of this link, or 0."""
    link = Link.of(body)
    if link.kind is None or link.kind not in KINDS:
        return None
    of = KINDS[link.kind]
    tunnel = Tunnel(
        interface=link.name,
        kind=link.kind,
        local=_address(link, f"{of}LOCAL", f"{of}LOCAL6"),
        # A vxlan's remote end is its group, even if that is a unicast address.
        remote=_address(link, f"{of}REMOTE", f"{of}REMOTE6", f"{of}GROUP", f"{of}GROUP6"),
        id=link.details.get(f"{of}ID"),
        ikey=_key(link, f"{of}IKEY", f"{of}IFLAGS"),
        okey=_key(link, f"{of}OKEY", f"{of}OFLAGS"),
        port=link.details.get(f"{of}PORT"),
        ttl=link.details.get(f"{of}TTL") or 0,
        fwmark=link.details.get(f"{of}FWMARK") or 0,
        external=bool(link.details.get(f"{of}COLLECT_METADATA")),
    )
    # An index in another network namespace would name the wrong link here.
    bound = link.message.get("IFLA_LINK_NETNSID") is None
    return tunnel, (link.details.get(f"{of}LINK") or 0) if bound else 0


def _address(link: Link, *names: str) -> str | None:
    for name in names:
        address: str | None = link.details.get(name)
        if address is not None and address not in _ANY:
            return address
    return None


def _key(link: Link, name: str, flags_name: str) -> int | None:
    key: int | None = link.details.get(name)
    flags = link.details.get(flags_name)
    # Some kinds have no flags.
    if flags is None:
        return key or None
    return key if flags & _GRE_KEY else None
