"""Bodies of requests (RSGI), read within bounds of size, time and memory.

May live here: how many bytes are taken from whom for how long. Not here: what they say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined] # part of RSGI, re-exported without saying so

from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.errors import BodyTimeout, Overloaded, TooLarge

# An honest agent sends its 10 kB at once, over the slowest link within seconds.
BODY_SECONDS = 10.0
# Bodies up to here are taken as a whole, which costs one wake-up; granian's limit of connections bounds them together.
SMALL_BYTES = 64 * 1024
# What one worker holds of larger bodies that are still arriving, all together.
MAX_HELD_BYTES = 64 * 1024 * 1024
# More digits than this are zeros in front, or a body beyond any limit.
_MAX_DIGITS = 12


class Bodies:
    """Reads the bodies of one worker's requests, in one event loop."""

    def __init__(self) -> None:
        """Begin with nothing held."""
        self._held = 0

    async def read(self, headers: Mapping[str, str], protocol: Any) -> bytes:
        """Read the body of a request with these headers, within 1 MiB and ten seconds.

        Raises:
            TooLarge: more was declared, or came.
            BodyTimeout: it did not arrive whole in time, or never will.
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
            raise TooLarge(f"more than {MAX_BODY_BYTES} bytes came; that is the limit")
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
