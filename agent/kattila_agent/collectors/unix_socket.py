"""One question over a unix socket, bounded in time and size.

May live here: the exchange of bytes. Not here: what they mean.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

MAX_ANSWER_BYTES = 16 * 1024 * 1024
TIMEOUT_SECONDS = 15.0

_CHUNK = 64 * 1024


class UnreadableError(Exception):
    """Something cannot be read, or not whole; the text says why and holds nothing of a key."""


def ask(
    path: Path,
    question: bytes,
    end: bytes = b"",
    *,
    timeout_seconds: float = TIMEOUT_SECONDS,
    max_bytes: int = MAX_ANSWER_BYTES,
) -> bytes:
    """Send the question and return the answer, up to its end: the other side's, or these bytes.

    Raises:
        OSError: there is nobody to ask.
        UnreadableError: the answer is too long, or takes too long.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.settimeout(timeout_seconds)
        expired = threading.Event()
        # A limit on each call would let an answer drip in for ever.
        expiry = threading.Timer(timeout_seconds, _expire, (opened, expired))
        expiry.daemon = True
        expiry.start()
        answer = b""
        try:
            opened.connect(str(path))
            # To send nothing to one that has answered and closed would be an error.
            if question:
                opened.sendall(question)
            # With what is shut down, most servers answer one question and close.
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
        raise UnreadableError(f"{path} gave no whole answer within {timeout_seconds:g} s")
    return answer


def lines(answer: bytes) -> Iterator[bytes]:
    """Yield the lines without their ends, one at a time: a list of millions of short ones would take 50 times the room.

    What stands behind the last line feed is no line.
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
