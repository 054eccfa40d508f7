"""Addresses and keys in the one spelling that all readers give: that of `wg`, which is that of the C library.

May live here: bytes or text of one source to that spelling. Errors show nothing of what they refuse.
"""

from __future__ import annotations

import base64
import os
import re
import socket
from collections.abc import Callable, Mapping

from kattila_agent.collectors.netlink import rtnetlink

KEY_BYTES = 32
# What names the interface of a link-local address, as the part behind "%".
ScopeName = Callable[[int], str]

_KEY = re.compile(rb"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
_HEX_KEY = re.compile(rb"[0-9a-fA-F]{64}")
# An interface may have any name, a bracket or an odd space in it.
_ENDPOINT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)(?:%(.{1,64}))?\]|([0-9.]+)):([0-9]{1,5})")
_PREFIX = re.compile(r"([0-9A-Fa-f:.]+)/([0-9]{1,3})")
_BITS: Mapping[int, int] = {socket.AF_INET: 32, socket.AF_INET6: 128}


def key(raw: bytes, name: str) -> str:
    """Return a public key in base64; raises ValueError if it has another length."""
    if len(raw) != KEY_BYTES:
        raise ValueError(f"{name} has another length")
    return base64.b64encode(raw).decode("ascii")


def read_key(text: bytes, name: str) -> str:
    """Check a public key in base64."""
    if _KEY.fullmatch(text) is None:
        raise ValueError(f"{name} is no key")
    return text.decode("ascii")


def read_hex_key(text: bytes, name: str) -> bytes:
    """Read a key in hex."""
    if _HEX_KEY.fullmatch(text) is None:
        raise ValueError(f"{name} is no key")
    return bytes.fromhex(text.decode("ascii"))


def prefix(family: int, address: bytes, bits: int) -> str:
    """Return "192.0.2.0/24"; raises ValueError where family, address and length do not fit each other."""
    most = _BITS.get(family)
    if most is None or len(address) * 8 != most or bits > most:
        raise ValueError("an allowed IP is no prefix")
    return f"{socket.inet_ntop(family, address)}/{bits}"


def read_prefix(text: str) -> str:
    """Check a prefix in any spelling."""
    match = _PREFIX.fullmatch(text)
    if match is None:
        raise ValueError("an allowed IP is no prefix")
    family, address = _address(match.group(1), "an allowed IP")
    return prefix(family, address, int(match.group(2)))


def endpoint(family: int, address: bytes, port: int, scope: str = "") -> str:
    """Return "192.0.2.1:51820" or "[fe80::1%eth0]:51820"."""
    host = socket.inet_ntop(family, address)
    if family == socket.AF_INET:
        return f"{host}:{port}"
    return f"[{host}%{scope}]:{port}" if scope else f"[{host}]:{port}"


def read_endpoint(text: str, scope_name: ScopeName) -> str:
    """Check an endpoint in any spelling; a scope that is a number becomes the interface's name."""
    match = _ENDPOINT.fullmatch(text)
    if match is None or int(match.group(4)) > 65535:
        raise ValueError("endpoint is no address and port")
    v6, scope, v4, port = match.groups()
    family, address = _address(v6 or v4, "endpoint")
    if (family == socket.AF_INET6) != (v6 is not None):
        raise ValueError("endpoint is no address and port")
    named = scope_name(int(scope)) if scope and scope.isdecimal() and len(scope) < 10 else scope or ""
    return endpoint(family, address, int(port), named)


def scope_name(index: int) -> str:
    """Return the name of the interface with this index, else the index, as getnameinfo(3) does."""
    try:
        return rtnetlink.text(os.fsencode(socket.if_indextoname(index)))
    except OSError:
        return str(index)


def _address(text: str, name: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return family, socket.inet_pton(family, text)
    except OSError:
        raise ValueError(f"{name} is no address") from None
