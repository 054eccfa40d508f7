"""Reads the bodies of requests (RSGI) within bounds of size, time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined] # part of RSGI, re-exported without saying so

from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.errors import BodyTimeout, Overloaded, TooLarge

# An agent sends its 10 kB at once, which takes seconds over the slowest link.
BODY_SECONDS = 10.0
# Smaller bodies are read whole, with one wake-up. granian's connection limit bounds their total.
SMALL_BYTES = 64 * 1024
# The most that one worker buffers of larger bodies while they arrive.
MAX_HELD_BYTES = 64 * 1024 * 1024
# A longer number has leading zeros, or exceeds every limit.
_MAX_DIGITS = 12


class BodyReader:
    """Reads the bodies of one worker's requests, in one event loop."""

    def __init__(self) -> None:
        """Start with an empty buffer."""
        self._held = 0

    async def read(self, headers: Mapping[str, str], protocol: Any) -> bytes:
        """Read the body of a request with these headers, at most 1 MiB in ten seconds.

        Raises:
            TooLarge: the declared or received size exceeds the limit.
            BodyTimeout: the body was incomplete after ten seconds, or when the client closed the connection.
            Overloaded: too many large bodies are arriving at once.
        """
        declared = _declared(headers)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                whole = declared is not None and declared <= SMALL_BYTES
                body: bytes = await (protocol() if whole else self._chunks(protocol))
                return body
        except TimeoutError:
            raise BodyTimeout(f"the body was not complete after {BODY_SECONDS:.0f} s") from None
        except ProtocolClosed:
            raise BodyTimeout("the connection was closed before the body was complete") from None

    async def _chunks(self, protocol: Any) -> bytes:
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in protocol:
                size += len(chunk)
                self._held += len(chunk)
                self._check(size)
                chunks.append(chunk)
        finally:
            self._held -= size
        return b"".join(chunks)

    def _check(self, size: int) -> None:
        if size > MAX_BODY_BYTES:
            raise TooLarge(f"the body has more than {MAX_BODY_BYTES} bytes, which is the limit")
        if self._held > MAX_HELD_BYTES:
            raise Overloaded("too many large bodies are arriving at once", retry_after_seconds=5)


def _declared(headers: Mapping[str, str]) -> int | None:
    content_length = headers.get("content-length") or ""
    # Beside chunks a declared length means nothing (RFC 9112, section 6.3).
    if headers.get("transfer-encoding") or not content_length.isdecimal() or not content_length.isascii():
        return None
    digits = content_length.lstrip("0")
    if len(digits) > _MAX_DIGITS or int(digits or "0") > MAX_BODY_BYTES:
        raise TooLarge(f"the body has {digits[:_MAX_DIGITS]} bytes or more; the limit is {MAX_BODY_BYTES}")
    return int(digits or "0")
