"""Builds the kernel's WireGuard messages (linux/wireguard.h) with the content that a test needs."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

INDEX = 7


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def message(*attributes: bytes) -> bytes:
    """Return a message as the channel returns it: from the generic netlink header on."""
    return struct.pack("=BBH", 0, 1, 0) + b"".join(attributes)


def peers(*encoded: bytes) -> bytes:
    # In the kernel's lists every element has the type 0.
    return attribute(8 | 0x8000, b"".join(attribute(0x8000, one) for one in encoded))


def allowed_ip(text: str) -> bytes:
    address, _, bits = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return (
        attribute(1, struct.pack("=H", family))
        + attribute(2, socket.inet_pton(family, address))
        + attribute(3, struct.pack("=B", int(bits)))
    )


def allowed_ips(texts: Iterable[str]) -> bytes:
    return attribute(9 | 0x8000, b"".join(attribute(0x8000, allowed_ip(text)) for text in texts))


def sockaddr(address: str, port: int, scope: int = 0) -> bytes:
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address)
        return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + packed + struct.pack("=I", scope)
    packed = socket.inet_pton(socket.AF_INET, address)
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + packed + bytes(8)


class Parts(NamedTuple):
    """The attributes of a peer, so that a test can change or omit one."""

    public_key: bytes
    preshared_key: bytes = attribute(2, bytes(32))
    flags: bytes = b""
    endpoint: bytes = attribute(4, sockaddr("192.0.2.2", 51820))
    keepalive: bytes = attribute(5, struct.pack("=H", 25))
    handshake: bytes = attribute(6, struct.pack("=qq", 1_760_000_000, 5))
    received: bytes = attribute(7, struct.pack("=Q", 100))
    sent: bytes = attribute(8, struct.pack("=Q", 200))
    prefixes: bytes = allowed_ips(["198.51.100.0/24"])
    version: bytes = attribute(10, struct.pack("=I", 1))


def parts(public_key: bytes, **changed: bytes) -> Parts:
    return Parts(attribute(1, public_key), **changed)


def peer(public_key: bytes, **changed: bytes) -> bytes:
    return b"".join(parts(public_key, **changed))


def device(private_key: bytes, public_key: bytes, *, listen_port: int = 51820, fwmark: int = 0) -> bytes:
    """Return the attributes at the start of the first message."""
    return b"".join(
        (
            attribute(1, struct.pack("=I", INDEX)),
            attribute(2, b"wg0\0"),
            attribute(3, private_key),
            attribute(4, public_key),
            attribute(6, struct.pack("=H", listen_port)),
            attribute(7, struct.pack("=I", fwmark)),
        )
    )
