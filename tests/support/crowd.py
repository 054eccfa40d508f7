"""Many connections from one address, which send what a test wants and are never closed by this side."""

from __future__ import annotations

import select
import socket
from types import TracebackType

from support.waiting import PATIENCE_SECONDS


class Crowd:
    """Connections from one source address to a server; use as a context."""

    def __init__(self, server: tuple[str, int], source: str = "127.0.0.1") -> None:
        """Take the server, and the address that all connections come from."""
        self._server = server
        self._source = source
        self.connections: list[socket.socket] = []

    def add(self, count: int, sent: bytes = b"") -> None:
        """Open more connections, and send these bytes on each."""
        for _ in range(count):
            opened = socket.create_connection(self._server, PATIENCE_SECONDS, source_address=(self._source, 0))
            self.connections.append(opened)
            try:
                opened.sendall(sent)
            except ConnectionError:
                # The server may close it at once.
                continue

    def ended(self) -> int:
        """Return how many of the connections the server has ended."""
        poll = select.poll()
        for each in self.connections:
            poll.register(each, select.POLLRDHUP)
        return len(poll.poll(0))

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for each in self.connections:
            each.close()
