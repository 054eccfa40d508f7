"""One request over a unix socket, bounded in time and size."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

MAX_ANSWER_BYTES = 16 * 1024 * 1024

_CHUNK = 64 * 1024


class UnreadableError(Exception):
    """A source cannot be read, or not completely; the text says why, and contains no part of a key."""


def exchange(
    path: Path, request: bytes, end: bytes = b"", *, timeout_seconds: float = 15.0, max_bytes: int = MAX_ANSWER_BYTES
) -> bytes:
    """Send a request and return the answer, which ends with `end` or with the connection.

    Raises:
        OSError: nobody listens there.
        UnreadableError: the answer is too long, or takes too long.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.settimeout(timeout_seconds)
        expired = threading.Event()
        # The timeout of each call would not stop an answer that arrives byte by byte.
        expiry = threading.Timer(timeout_seconds, _expire, (opened, expired))
        expiry.daemon = True
        expiry.start()
        answer = b""
        try:
            opened.connect(str(path))
            # Sending even nothing fails if the other side has already answered and closed.
            if request:
                opened.sendall(request)
            # Makes most servers close after one answer.
            opened.shutdown(socket.SHUT_WR)
            answer = _read_to(opened, end, path, max_bytes)
        except TimeoutError:
            expired.set()
        except OSError:
            if not expired.is_set():
                raise
        finally:
            expiry.cancel()
    if expired.is_set():
        raise UnreadableError(f"{path} gave no complete answer within {timeout_seconds:g} s")
    return answer


def lines(answer: bytes) -> Iterator[bytes]:
    """Yield the complete lines without their line feeds.

    This is a generator because a list of millions of short lines would take 50 times the memory.
    """
    start = 0
    while (end := answer.find(b"\n", start)) >= 0:
        yield answer[start:end]
        start = end + 1


def _expire(opened: socket.socket, expired: threading.Event) -> None:
    expired.set()
    with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)


def _read_to(opened: socket.socket, end: bytes, path: Path, max_bytes: int) -> bytes:
    answer = bytearray()
    while chunk := opened.recv(_CHUNK):
        answer += chunk
        if len(answer) > max_bytes:
            raise UnreadableError(f"{path} answered more than {max_bytes} bytes")
        if end and answer.endswith(end):
            break
    return bytes(answer)
