"""Keys, prefixes and endpoints in the notation of `wg`, which all readers use. Errors contain no part of the input."""

from __future__ import annotations

import base64
import os
import re
import socket
from collections.abc import Callable, Mapping

from kattila_agent.collectors.netlink.notation import text as as_text

KEY_BYTES = 32
# Returns the name of a link-local address's interface by its index: the part behind "%".
ScopeName = Callable[[int], str]

_KEY = re.compile(rb"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
_HEX_KEY = re.compile(rb"[0-9a-fA-F]{64}")
# The name of an interface may contain brackets and unusual spaces.
_ENDPOINT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)(?:%(.{1,64}))?\]|([0-9.]+)):([0-9]{1,5})")
_PREFIX = re.compile(r"([0-9A-Fa-f:.]+)/([0-9]{1,3})")
_BITS: Mapping[int, int] = {socket.AF_INET: 32, socket.AF_INET6: 128}


def format_key(raw: bytes, name: str) -> str:
    """Return a public key in base64; raises ValueError if it has the wrong length."""
    if len(raw) != KEY_BYTES:
        raise ValueError(f"{name} has the wrong length")
    return base64.b64encode(raw).decode("ascii")


def parse_key(text: bytes, name: str) -> str:
    """Return a public key in base64 as text; raises ValueError if it is malformed."""
    if _KEY.fullmatch(text) is None:
        raise ValueError(f"{name} is not a key")
    return text.decode("ascii")


def parse_hex_key(text: bytes, name: str) -> bytes:
    """Return the 32 bytes of a key in hex; raises ValueError if it is malformed."""
    if _HEX_KEY.fullmatch(text) is None:
        raise ValueError(f"{name} is not a key")
    return bytes.fromhex(text.decode("ascii"))


def format_prefix(family: int, address: bytes, bits: int) -> str:
    """Return a prefix as "192.0.2.0/24"; raises ValueError if family, address and length do not fit together."""
    most = _BITS.get(family)
    if most is None or len(address) * 8 != most or bits > most:
        raise ValueError("an allowed IP is not a prefix")
    return f"{socket.inet_ntop(family, address)}/{bits}"


def parse_prefix(text: str) -> str:
    """Return a prefix in the notation of `wg`; raises ValueError if it is malformed."""
    match = _PREFIX.fullmatch(text)
    if match is None:
        raise ValueError("an allowed IP is not a prefix")
    family, address = _packed(match.group(1), "an allowed IP")
    return format_prefix(family, address, int(match.group(2)))


def format_endpoint(family: int, address: bytes, port: int, scope: str = "") -> str:
    """Return an endpoint as "192.0.2.1:51820" or "[fe80::1%eth0]:51820"."""
    host = socket.inet_ntop(family, address)
    if family == socket.AF_INET:
        return f"{host}:{port}"
    return f"[{host}%{scope}]:{port}" if scope else f"[{host}]:{port}"


def parse_endpoint(text: str, scope_name: ScopeName) -> str:
    """Return an endpoint in the notation of `wg`, with a numeric scope replaced by the name of its interface.

    Raises:
        ValueError: it is malformed.
    """
    match = _ENDPOINT.fullmatch(text)
    if match is None or int(match.group(4)) > 65535:
        raise ValueError("endpoint is not an address and a port")
    v6, scope, v4, port = match.groups()
    family, address = _packed(v6 or v4, "endpoint")
    if (family == socket.AF_INET6) != (v6 is not None):
        raise ValueError("endpoint is not an address and a port")
    named = scope_name(int(scope)) if scope and scope.isdecimal() and len(scope) < 10 else scope or ""
    return format_endpoint(family, address, int(port), named)


def scope_name(index: int) -> str:
    """Return the name of the interface with this index, or the index if there is none, like getnameinfo(3)."""
    try:
        return as_text(os.fsencode(socket.if_indextoname(index)))
    except OSError:
        return str(index)


def _packed(text: str, name: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return family, socket.inet_pton(family, text)
    except OSError:
        raise ValueError(f"{name} is not an address") from None
