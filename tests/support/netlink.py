"""Bytes as rtnetlink(7) sends them, built by hand: of links that this kernel may lack, and malformed ones.

May live here: the building blocks. Numbers are those of the kernel's headers, written down a second time on purpose.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from kattila_agent.collectors.netlink.rtnetlink import Channel

NEWLINK, NEWADDR, NEWROUTE, NEWNEIGH, NEWRULE, ERROR, DONE = 16, 20, 24, 28, 32, 2, 3


def nla(kind: int, value: bytes | int | str, size: int = 4) -> bytes:
    """An attribute: a number of `size` bytes in this machine's order, a string with its NUL, or bytes."""
    if isinstance(value, int):
        value = struct.pack({1: "=B", 2: "=H", 4: "=I", 8: "=Q"}[size], value)
    if isinstance(value, str):
        value = value.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def ip(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def link(index: int, name: str, *more: bytes, kind: int = 1, flags: int = 0x11043, mtu: int | None = 1500) -> bytes:
    """The body of RTM_NEWLINK; `kind` is its ARPHRD_*."""
    said = [nla(3, name)] + ([nla(4, mtu)] if mtu is not None else [])
    return struct.pack("=BxHiII", 0, kind, index, flags, 0) + b"".join(said) + b"".join(more)


def link_info(kind: str, *data: bytes) -> bytes:
    return nla(18, nla(1, kind) + nla(2, b"".join(data)))


def address(index: int, length: int, *said: bytes, family: int = socket.AF_INET) -> bytes:
    """The body of RTM_NEWADDR."""
    return struct.pack("=BBBBi", family, length, 0, 0, index) + b"".join(said)


def route(*said: bytes, family: int = 2, length: int = 0, protocol: int = 3, kind: int = 1, table: int = 254) -> bytes:
    """The body of RTM_NEWROUTE."""
    return struct.pack("=BBBBBBBBI", family, length, 0, 0, table, protocol, 0, kind, 0) + b"".join(said)


def multipath(*gateways: int) -> bytes:
    """RTA_MULTIPATH with a next hop over link 2 through each 192.0.2.x."""
    hops = [nla(5, ip(f"192.0.2.{gateway}")) for gateway in gateways]
    return nla(9, b"".join(struct.pack("=HBBi", 8 + len(hop), 0, 0, 2) + hop for hop in hops))


def neighbour(index: int, state: int, *said: bytes, family: int = socket.AF_INET) -> bytes:
    """The body of RTM_NEWNEIGH."""
    return struct.pack("=BxxxiHBB", family, index, state, 0, 1) + b"".join(said)


def rule(*said: bytes, family: int = 2, to: int = 0, source: int = 0, action: int = 1, flags: int = 0) -> bytes:
    """The body of RTM_NEWRULE."""
    return struct.pack("=BBBBBxxBI", family, to, source, 0, 254, action, flags) + b"".join(said)


def message(kind: int, body: bytes, *, sequence: int = 1, flags: int = 2, length: int | None = None) -> bytes:
    """A whole message, padded; `length` lies about it."""
    said = struct.pack("=IHHII", 16 + len(body) if length is None else length, kind, flags, sequence, 0)
    return said + body + bytes(-len(body) % 4)


def done(*, sequence: int = 1, code: int = 0) -> bytes:
    return message(DONE, struct.pack("=i", code), sequence=sequence)


@contextmanager
def kernel_that_says(*datagrams: bytes) -> Iterator[Channel]:
    """A channel whose other end has said all that already, and says no more."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    here.settimeout(0.2)
    for datagram in datagrams:
        there.send(datagram)
    with there, here:
        yield Channel(here)
