"""Parses `wg show all dump` (wg(8)). The secret columns may be blanked; they are only compared with "(none)".

Errors name the line and the column, and contain no part of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from kattila_agent.collectors.netlink.notation import text
from kattila_agent.collectors.wireguard import notation
from kattila_agent.collectors.wireguard.builder import MAX_COUNT, InterfaceBuilder, PeerLimits, parse_number
from kattila_agent.collectors.wireguard.notation import ScopeName
from kattila_protocol.canonical import MAX_INTEGER

_NONE = b"(none)"
_OFF = b"off"
_INTERFACE_COLUMNS = 5
_PEER_COLUMNS = 9


def parse(lines: Iterable[bytes], limits: PeerLimits, scope_name: ScopeName) -> dict[str, InterfaceBuilder]:
    """Return the interfaces by name, in the order of the dump.

    Raises:
        ValueError: a line is malformed.
    """
    found: dict[str, InterfaceBuilder] = {}
    for number, line in enumerate(lines, 1):
        try:
            _add(found, line.split(b"\t"), limits, scope_name)
        except ValueError as error:
            raise ValueError(f"line {number} of the dump: {error}") from None
    return found


def _add(found: dict[str, InterfaceBuilder], columns: list[bytes], limits: PeerLimits, scope_name: ScopeName) -> None:
    name = text(columns[0])
    if len(columns) == _INTERFACE_COLUMNS:
        if name in found:
            raise ValueError("an interface is repeated")
        found[name] = _interface(name, columns, limits)
    elif len(columns) == _PEER_COLUMNS:
        if name not in found:
            raise ValueError("a peer without its interface")
        _add_peer(found[name], columns, scope_name)
    else:
        raise ValueError(f"{len(columns)} columns")


def _interface(name: str, columns: list[bytes], limits: PeerLimits) -> InterfaceBuilder:
    _, _, public_key, listen_port, fwmark = columns
    return InterfaceBuilder(
        name,
        limits,
        public_key="" if public_key == _NONE else notation.parse_key(public_key, "public_key"),
        listen_port=parse_number(listen_port, 65535, "listen_port"),
        fwmark=0 if fwmark == _OFF else _hex_number(fwmark),
    )


def _add_peer(interface: InterfaceBuilder, columns: list[bytes], scope_name: ScopeName) -> None:
    _, public_key, preshared, endpoint, allowed_ips, handshake, received, sent, keepalive = columns
    peer = interface.add_peer(notation.parse_key(public_key, "public_key"))
    peer.has_preshared_key = _is_set(preshared)
    peer.endpoint = None if endpoint == _NONE else notation.parse_endpoint(text(endpoint), scope_name)
    peer.latest_handshake = parse_number(handshake, MAX_INTEGER, "latest_handshake")
    peer.transfer_rx = parse_number(received, MAX_COUNT, "transfer_rx")
    peer.transfer_tx = parse_number(sent, MAX_COUNT, "transfer_tx")
    peer.persistent_keepalive = 0 if keepalive == _OFF else parse_number(keepalive, 65535, "persistent_keepalive")
    prefixes = [] if allowed_ips == _NONE else text(allowed_ips).split(",")
    interface.allow(peer, map(notation.parse_prefix, prefixes), len(prefixes))


def _is_set(secret: bytes) -> bool:
    if not secret:
        raise ValueError("an empty column")
    return secret != _NONE


def _hex_number(value: bytes) -> int:
    digits = value.removeprefix(b"0x")
    if digits == value or not 0 < len(digits) <= 8 or not set(digits) <= set(b"0123456789abcdef"):
        raise ValueError("fwmark is not a number")
    return int(digits, 16)
