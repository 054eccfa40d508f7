"""Questions to rtnetlink(7) and the bytes of its answers.

May live here: the socket, messages (linux/netlink.h) and their attributes, read strictly: what does not fit its own
lengths is an error, never a value. Not here: what a link, an address or a route says.

Written here instead of asking pyroute2: that one takes 23 MB and 0.1 s to import, 30 µs for each message where this
takes 2, and reads a table whole (docs/decisions/0006).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Literal, NamedTuple, TypeVar

# An answer's attributes by number, as in the kernel's enums; of one that stands twice the last counts, as in nla_parse.
Attributes = Mapping[int, bytes]

_Bytes = TypeVar("_Bytes", bytes, memoryview)
_Value = TypeVar("_Value")

# The byte order of whatever is not said to be the network's.
ORDER = sys.byteorder

# The kernel fills 32 KiB at a time, unless one message is larger: that of a link with all alternative names that it may
# have has more than 64.
_BUFFER = 128 * 1024
_SILENCE_SECONDS = 5.0
# A table that changes while it is dumped is read again (NLM_F_DUMP_INTR): so often because a node that starts many
# containers changes its links all the time.
_ATTEMPTS = 20

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")
# Of an enumeration each operation costs a microsecond.
_TRUNCATED = int(socket.MSG_TRUNC)

# linux/netlink.h
_REQUEST = 0x1
_DUMP = 0x300
_INTERRUPTED = 0x10
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_SOL_NETLINK = 270
_GET_STRICT_CHK = 12
_TYPE_MASK = 0x3FFF


class Listed(NamedTuple):
    """A dump: the bodies of the messages that were kept, and how many there were."""

    bodies: list[bytes]
    total: int


# Takes a buffer and where the body of a message starts in it, and tells how many messages may have been kept before for
# this one to be kept, too; None if it is no part of the answer at all.
Room = Callable[[bytes, int], int | None]

# What was received, and where in it the bodies of its messages start and end.
_Answer = tuple[bytes, list[tuple[int, int]]]


class Refused(OSError):
    """The kernel's own error."""


class Interrupted(Exception):
    """The table changed while it was read; what was read of it may be inconsistent."""


class Channel:
    """A socket to the kernel. For one thread; close it, or use it as a context manager.

    Opening one costs 20 microseconds, so none is kept: after an error nobody asks what is still on its way.
    """

    def __init__(self, opened: socket.socket | None = None) -> None:
        """Open a socket to rtnetlink in this thread's network namespace; raises OSError."""
        self._socket = opened or _open()
        self._sequence = 0

    def __enter__(self) -> Channel:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the socket."""
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def ask(self, kind: int, body: bytes) -> bytes:
        """Return the body of the one message that answers this one.

        Raises:
            Refused: the kernel's error.
            OSError: the kernel does not answer.
            ValueError: the answer is malformed.
        """
        self._send(kind, _REQUEST, body)
        for buffer, bodies in self._answers():
            for start, end in bodies:
                return buffer[start:end]
        raise ValueError("an answer without a message")

    def dump(self, kind: int, body: bytes, room: int | Room, *, least: int = 0) -> Listed:
        """Return the messages of a table for which there is room; the others are counted.

        A body shorter than `least` bytes is malformed.

        Raises:
            OSError: the kernel refused, or does not answer.
            Interrupted: the table changed meanwhile.
            ValueError: the answer is malformed.
        """
        room_for = (lambda _buffer, _start: room) if isinstance(room, int) else room
        kept: list[bytes] = []
        total = 0
        for buffer, bodies in self._table(kind, body, least):
            for start, end in bodies:
                most = room_for(buffer, start)
                if most is None:
                    continue
                total += 1
                if len(kept) < most:
                    kept.append(buffer[start:end])
        return Listed(kept, total)

    def each(self, kind: int, body: bytes, *, least: int = 0, changing: bool = False) -> Iterator[bytes]:
        """Yield the bodies of all messages of a table, none of which is kept; raises as `dump` does, at any of them.

        What is `changing` may change meanwhile; then something may be missing.
        """
        for buffer, bodies in self._table(kind, body, least, changing=changing):
            for start, end in bodies:
                yield buffer[start:end]

    def _table(self, kind: int, body: bytes, least: int, *, changing: bool = False) -> Iterator[_Answer]:
        self._send(kind, _REQUEST | _DUMP, body)
        return self._answers(least, changing=changing)

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)

    def _answers(self, least: int = 0, *, changing: bool = False) -> Iterator[_Answer]:
        """Yield what is received, up to the end of the answer."""
        is_over = False
        while not is_over:
            buffer = self._received()
            bodies, is_over = self._bodies(buffer, least, changing=changing)
            yield buffer, bodies

    def _bodies(self, buffer: bytes, least: int, *, changing: bool) -> tuple[list[tuple[int, int]], bool]:
        """Return where the bodies in a buffer are, and whether the answer ends there."""
        bodies: list[tuple[int, int]] = []
        for kind, flags, sequence, start, end in messages(buffer):
            if sequence != self._sequence:
                continue
            if flags & _INTERRUPTED and not changing:
                raise Interrupted("the table changed while it was read")
            if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                _check_end(kind, buffer[start:end])
                return bodies, True
            if end - start < least:
                raise ValueError(f"a body of {end - start} bytes, shorter than its header of {least}")
            bodies.append((start, end))
        return bodies, False

    def _received(self) -> bytes:
        while True:
            buffer, _, flags, sender = self._socket.recvmsg(_BUFFER)
            if flags & _TRUNCATED:
                raise ValueError(f"an answer of more than {_BUFFER} bytes")
            # Only port 0 is the kernel.
            if not isinstance(sender, tuple) or sender[0] == 0:
                return buffer


def dump(kind: int, body: bytes, room: int | Room, *, least: int = 0) -> Listed:
    """Dump a table through a channel of its own, again if it changes meanwhile; see `Channel.dump` and `settled`."""
    return settled(lambda channel: channel.dump(kind, body, room, least=least))


def settled(read: Callable[[Channel], _Value]) -> _Value:
    """Read a table through a channel of its own, again if it changes meanwhile, and return what was read.

    Raises:
        OSError: the kernel refused, or the table changed during every attempt.
        ValueError: the answer is malformed.
    """
    for _ in range(_ATTEMPTS):
        with Channel() as channel:
            try:
                return read(channel)
            except Interrupted:
                continue
    raise OSError(errno.EAGAIN, "the table kept changing while it was read")


def messages(buffer: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (type, flags, sequence, start, end) of each message in a buffer, where its body is; raises ValueError."""
    at, size = 0, len(buffer)
    while at < size:
        if size - at < _HEADER.size:
            raise ValueError(f"{size - at} bytes where a message begins")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(buffer, at)
        if not _HEADER.size <= length <= size - at:
            raise ValueError(f"a message of {length} bytes where {size - at} are left")
        yield kind, flags, sequence, at + _HEADER.size, at + length
        at += (length + 3) & ~3


def attributes(body: bytes, start: int = 0) -> Attributes:
    """Return the attributes that stand in a body from `start` on, after its header; raises ValueError."""
    if start > len(body):
        raise ValueError(f"a body of {len(body)} bytes, shorter than its header of {start}")
    return dict(walk(body, start))


def walk(body: _Bytes, start: int = 0) -> Iterator[tuple[int, _Bytes]]:
    """Yield number and value of each attribute from `start` on, also where one number stands often (a list).

    Raises:
        ValueError: one does not fit; the message tells its length, which is of no interest to others unless the body
            holds secrets.
    """
    end = len(body)
    while start < end:
        if end - start < _ATTRIBUTE.size:
            raise ValueError(f"{end - start} bytes where an attribute begins")
        length, kind = _ATTRIBUTE.unpack_from(body, start)
        if not _ATTRIBUTE.size <= length <= end - start:
            raise ValueError(f"an attribute of {length} bytes where {end - start} are left")
        yield kind & _TYPE_MASK, body[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute for a question, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def header(shape: struct.Struct, body: bytes) -> tuple[int, ...]:
    """Return the fields that a body begins with; raises ValueError if it is shorter."""
    if len(body) < shape.size:
        raise ValueError(f"a body of {len(body)} bytes, shorter than its header of {shape.size}")
    return shape.unpack_from(body)


def number(found: Attributes, kind: int, size: int, order: Literal["little", "big"] = ORDER) -> int | None:
    """Return an unsigned integer of so many bytes; None if absent; raises ValueError for another length."""
    value = found.get(kind)
    if value is None:
        return None
    if len(value) != size:
        raise ValueError(f"attribute {kind} has {len(value)} bytes instead of {size}")
    return int.from_bytes(value, order)


def string(found: Attributes, kind: int) -> str | None:
    """Return a string, which the kernel ends with a NUL; None if absent; raises ValueError if the end is missing."""
    value = found.get(kind)
    if value is None:
        return None
    value, nul, _ = value.partition(b"\0")
    if not nul:
        raise ValueError(f"attribute {kind} is a string without an end")
    return text(value)


def text(value: str | bytes) -> str:
    """Return a name of the kernel's, which may hold any bytes, as text: other bytes than UTF-8 become hex escapes."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def address(found: Attributes, kind: int, family: int | None = None) -> str | None:
    """Return an IP address; None if absent; raises ValueError for a length that is not the family's."""
    value = found.get(kind)
    if value is None:
        return None
    sizes = (4, 16) if family is None else (16,) if family == socket.AF_INET6 else (4,)
    if len(value) not in sizes:
        raise ValueError(f"attribute {kind} is an address of {len(value)} bytes")
    return socket.inet_ntop(socket.AF_INET6 if len(value) == 16 else socket.AF_INET, value)


def prefix(found: Attributes, kind: int, family: int, length: int) -> str:
    """Return a prefix as "192.0.2.0/24", with zeros where the attribute is absent; ValueError if it fits no family."""
    size = 16 if family == socket.AF_INET6 else 4
    value = found.get(kind, bytes(size))
    if len(value) != size or length > 8 * size:
        raise ValueError(f"attribute {kind} is a prefix of {len(value)} bytes and {length} bits")
    return f"{socket.inet_ntop(family, value)}/{length}"


def packed(ip_address: str) -> tuple[int, bytes]:
    """Return the family and the bytes of an IP address without a zone; raises ValueError."""
    family = socket.AF_INET6 if ":" in ip_address else socket.AF_INET
    try:
        return family, socket.inet_pton(family, ip_address)
    except OSError:
        raise ValueError(f"{ip_address!r} is no IP address") from None


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        opened.settimeout(_SILENCE_SECONDS)
        opened.bind((0, 0))
    except OSError:
        opened.close()
        raise
    # The kernel then filters by what stands in the question. Before 4.20 it did not, and told everything.
    with contextlib.suppress(OSError):
        opened.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
    return opened


def _check_end(kind: int, body: bytes) -> None:
    if len(body) < _ERROR.size:
        if kind == _NLMSG_DONE and not body:
            return
        raise ValueError(f"an end of {len(body)} bytes")
    (code,) = _ERROR.unpack_from(body)
    if code < 0:
        raise Refused(-code, os.strerror(-code))
