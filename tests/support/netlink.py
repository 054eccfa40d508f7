"""Builds rtnetlink(7) messages by hand: for links that this kernel may lack, and malformed ones.

The numbers repeat those of the kernel headers on purpose: the tests must not take them from the code under test.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from kattila_agent.collectors.netlink.transport import NetlinkChannel

NEWLINK, NEWADDR, NEWROUTE, NEWNEIGH, NEWRULE, ERROR, DONE = 16, 20, 24, 28, 32, 2, 3


def nla(kind: int, value: bytes | int | str, size: int = 4) -> bytes:
    """Return an attribute: an integer of `size` bytes in native byte order, a string with its NUL, or bytes."""
    if isinstance(value, int):
        value = struct.pack({1: "=B", 2: "=H", 4: "=I", 8: "=Q"}[size], value)
    if isinstance(value, str):
        value = value.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def ip(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def link(index: int, name: str, *more: bytes, kind: int = 1, flags: int = 0x11043, mtu: int | None = 1500) -> bytes:
    """Return the body of RTM_NEWLINK; `kind` is its ARPHRD_* number."""
    attributes = [nla(3, name)] + ([nla(4, mtu)] if mtu is not None else [])
    return struct.pack("=BxHiII", 0, kind, index, flags, 0) + b"".join(attributes) + b"".join(more)


def statistics(index: int, counters: bytes) -> bytes:
    """Return the body of RTM_NEWSTATS with the counters of a link: struct rtnl_link_stats64, or its beginning."""
    return struct.pack("=BxxxII", 0, index, 1) + nla(1, counters)


def link_info(kind: str, *data: bytes) -> bytes:
    return nla(18, nla(1, kind) + nla(2, b"".join(data)))


def address(index: int, length: int, *attributes: bytes, family: int = socket.AF_INET) -> bytes:
    """Return the body of RTM_NEWADDR."""
    return struct.pack("=BBBBi", family, length, 0, 0, index) + b"".join(attributes)


def route(
    *attributes: bytes, family: int = 2, length: int = 0, protocol: int = 3, kind: int = 1, table: int = 254
) -> bytes:
    """Return the body of RTM_NEWROUTE."""
    return struct.pack("=BBBBBBBBI", family, length, 0, 0, table, protocol, 0, kind, 0) + b"".join(attributes)


def multipath(*gateways: int) -> bytes:
    """Return RTA_MULTIPATH with a next hop through each 192.0.2.x on link 2."""
    hops = [nla(5, ip(f"192.0.2.{gateway}")) for gateway in gateways]
    return nla(9, b"".join(struct.pack("=HBBi", 8 + len(hop), 0, 0, 2) + hop for hop in hops))


def neighbour(index: int, state: int, *attributes: bytes, family: int = socket.AF_INET) -> bytes:
    """Return the body of RTM_NEWNEIGH."""
    return struct.pack("=BxxxiHBB", family, index, state, 0, 1) + b"".join(attributes)


def rule(*attributes: bytes, family: int = 2, to: int = 0, source: int = 0, action: int = 1, flags: int = 0) -> bytes:
    """Return the body of RTM_NEWRULE."""
    return struct.pack("=BBBBBxxBI", family, to, source, 0, 254, action, flags) + b"".join(attributes)


def message(kind: int, body: bytes, *, sequence: int = 1, flags: int = 2, length: int | None = None) -> bytes:
    """Return a complete, padded message; `length` replaces the true length in its header."""
    header = struct.pack("=IHHII", 16 + len(body) if length is None else length, kind, flags, sequence, 0)
    return header + body + bytes(-len(body) % 4)


def done(*, sequence: int = 1, code: int = 0) -> bytes:
    return message(DONE, struct.pack("=i", code), sequence=sequence)


@contextmanager
def channel_with(*datagrams: bytes) -> Iterator[NetlinkChannel]:
    """Yield a channel that has received these datagrams and receives nothing further."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    here.settimeout(0.2)
    for datagram in datagrams:
        there.send(datagram)
    with there, here:
        yield NetlinkChannel(here)
