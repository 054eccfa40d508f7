"""The connections of the liar: HTTP from another source address, and connections that only occupy the server."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from support.manager import Reply
from support.raw_http import JSON, read_reply, request

SOURCE = "127.0.0.66"
# For requests to agents, so that the idle connections from the first address do not get in their way.
SECOND_SOURCE = "127.0.0.67"
_ANSWER_SECONDS = 20.0
# Before a connection that ended is opened again. Accepting thousands of them would only take processor time.
_PAUSE_SECONDS = 5.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Address = tuple[str, int]


async def connect(address: Address, source: str = SOURCE) -> Streams:
    """Connect from an address of the liar."""
    return await asyncio.open_connection(*address, local_addr=(source, 0))


class Wire:
    """A few connections to one server that stay open; a request takes any free one."""

    def __init__(self, address: Address, connections: int, source: str = SOURCE) -> None:
        self._address, self._source = address, source
        self._free: asyncio.Queue[Streams | None] = asyncio.Queue()
        for _ in range(connections):
            self._free.put_nowait(None)

    async def post(self, path: str, body: bytes) -> Reply | None:
        """Send a request with a JSON body; return None if no answer came."""
        return await self.send(request("POST", path, body, JSON | {"Connection": "keep-alive"}))

    async def send(self, sent: bytes) -> Reply | None:
        """Send the bytes of a request; return None if no answer came."""
        streams = await self._free.get()
        keep: Streams | None = None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                streams = streams or await connect(self._address, self._source)
                streams[1].write(sent)
                reply = await read_reply(streams[0])
            keep = streams
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, StopIteration, ValueError):
            return None
        else:
            return reply
        finally:
            if keep is None and streams is not None:
                streams[1].close()
            self._free.put_nowait(keep)


async def speak(address: Address, sent: bytes, source: str = SOURCE) -> bytes:
    """Send bytes over a new connection, and return all that comes back within a second or until the end."""
    received = b""
    with suppress(OSError):
        reader, writer = await connect(address, source)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                writer.write(sent)
                while part := await reader.read(65536):
                    received += part
        writer.close()
    return received


async def occupy(address: Address, sent: bytes, count: int, tally: Counter[str], name: str) -> None:
    """Keep `count` connections open that sent only this, until cancelled; each that ends is opened again."""

    async def hold() -> None:
        while True:
            with suppress(OSError, TimeoutError):
                reader, writer = await connect(address)
                tally[name] += 1
                try:
                    writer.write(sent)
                    while await reader.read(65536):
                        pass
                finally:
                    writer.close()
            await asyncio.sleep(_PAUSE_SECONDS)

    await asyncio.gather(*(hold() for _ in range(count)))
