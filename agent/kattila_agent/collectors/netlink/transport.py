"""Requests to rtnetlink(7) and generic netlink, and the messages of their answers (linux/netlink.h).

The transport is not that of pyroute2, which reads a whole table into memory, and does not see an interrupted dump or an
error at the end of one (docs/decisions/0006). What the messages contain is decoded by `codecs`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

_Value = TypeVar("_Value")

# The kernel fills 32 KiB at a time unless one message is larger: a link with all the alternative names that it may have
# takes more than 64 KiB.
_BUFFER = 128 * 1024
_TIMEOUT_SECONDS = 5.0
# A table that changes during a dump (NLM_F_DUMP_INTR) is read again. A node that starts many containers changes its
# links all the time.
_ATTEMPTS = 20

_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
# Each operation on the enumeration itself takes a microsecond.
_TRUNCATED = int(socket.MSG_TRUNC)

# linux/netlink.h
_REQUEST = 0x1
_DUMP = 0x300
_INTERRUPTED = 0x10
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_SOL_NETLINK = 270
_GET_STRICT_CHK = 12


class Listed(NamedTuple):
    """A dump: the bodies of the messages that were kept, and how many messages there were."""

    bodies: list[bytes]
    total: int


class Refused(OSError):
    """The kernel answered with an error."""


class Interrupted(Exception):
    """The table changed during the dump, so the answer may be inconsistent."""


@dataclass(slots=True)
class NetlinkChannel:
    """A netlink socket, for one thread.

    Opening one takes 20 µs, so none is used again: after an error, parts of an answer may still be under way. With
    `accept_changes`, a table may change while it is read; the answer may then be incomplete.
    """

    connection: socket.socket
    accept_changes: bool = False
    sequence: int = 0

    def request(self, kind: int, body: bytes) -> bytes:
        """Send a request and return the body of the one message that answers it; raises as `each` does."""
        for answer in self.each(kind, body, flags=_REQUEST):
            return answer
        raise ValueError("an answer without a message")

    def dump(
        self,
        kind: int,
        body: bytes,
        limit: int,
        *,
        least: int = 0,
        wanted: Callable[[bytes], object] | None = None,
        spared: Callable[[bytes], object] | None = None,
    ) -> Listed:
        """Read a table and keep the first `limit` of the wanted messages, or of all; raises as `each` does.

        Beyond the limit, it keeps as many again of those that are `spared`.
        """
        kept: list[bytes] = []
        total = 0
        for message in self.each(kind, body, least=least):
            if wanted is None or wanted(message):
                total += 1
                if len(kept) < limit or (spared is not None and len(kept) < 2 * limit and spared(message)):
                    kept.append(message)
        return Listed(kept, total)

    def each(self, kind: int, body: bytes, *, flags: int = _REQUEST | _DUMP, least: int = 0) -> Iterator[bytes]:
        """Send a request and yield the body of each message of the answer.

        Raises:
            Refused: the kernel's error.
            OSError: the kernel does not answer.
            Interrupted: the table changed meanwhile.
            ValueError: the answer is malformed, or a body is shorter than `least` bytes.
        """
        self.sequence += 1
        self.connection.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self.sequence, 0) + body)
        while True:
            buffer, _, received_flags, sender = self.connection.recvmsg(_BUFFER)
            if received_flags & _TRUNCATED:
                raise ValueError(f"an answer of more than {_BUFFER} bytes")
            # Only port 0 is the kernel.
            if isinstance(sender, tuple) and sender[0] != 0:
                continue
            for message_kind, message_flags, message in messages(buffer, self.sequence):
                if message_flags & _INTERRUPTED and not self.accept_changes:
                    raise Interrupted("the table changed while it was read")
                if message_kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    _check_end(message_kind, message)
                    return
                if len(message) < least:
                    raise ValueError(f"a body of {len(message)} bytes, shorter than its header of {least}")
                yield message


@contextlib.contextmanager
def opened() -> Iterator[NetlinkChannel]:
    """Open a channel to rtnetlink in this thread's network namespace; raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as connection:
        connection.settimeout(_TIMEOUT_SECONDS)
        connection.bind((0, 0))
        # Makes the kernel filter a dump by the request's header and attributes. Before 4.20 it returned everything.
        with contextlib.suppress(OSError):
            connection.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        yield NetlinkChannel(connection)


def retried(read: Callable[[NetlinkChannel], _Value], *, accept_changes: bool = False) -> _Value:
    """Read a table over a new channel, again if it changes meanwhile, and return the result.

    With `accept_changes`, the last attempt returns its result even if the table changes.

    Raises:
        OSError: the kernel refused, does not answer, or the table changed during every attempt.
        ValueError: the answer is malformed.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        with opened() as channel:
            channel.accept_changes = accept_changes and attempt == _ATTEMPTS
            try:
                return read(channel)
            except Interrupted:
                continue
    raise OSError(errno.EAGAIN, "the table kept changing while it was read")


def messages(buffer: bytes, sequence: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, flags and body of each message with this sequence number; raises ValueError if one does not fit."""
    at, size = 0, len(buffer)
    while at < size:
        if size - at < _HEADER.size:
            raise ValueError(f"{size - at} bytes where a message begins")
        length, kind, flags, answered, _ = _HEADER.unpack_from(buffer, at)
        if not _HEADER.size <= length <= size - at:
            raise ValueError(f"a message of {length} bytes where {size - at} are left")
        if answered == sequence:
            yield kind, flags, buffer[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _check_end(kind: int, body: bytes) -> None:
    """Raise Refused if the answer ends with an error; ValueError if its end is malformed."""
    if len(body) < _ERROR.size:
        if kind == _NLMSG_DONE and not body:
            return
        raise ValueError(f"an end of {len(body)} bytes")
    (code,) = _ERROR.unpack_from(body)
    if code < 0:
        raise Refused(-code, os.strerror(-code))
