"""A TCP proxy for the manager that cuts connections after it received the answer to a report."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from support.waiting import PATIENCE_SECONDS

_MAX_BYTES = 1 << 20
_REPORT = b"POST /status/updates "
# SO_LINGER with zero seconds: close(2) sends a reset.
_RESET = struct.pack("ii", 1, 0)


class CuttingProxy:
    """A running proxy; `cuts` counts the answers that it did not forward completely."""

    def __init__(self, target: tuple[str, int], chance: random.Random, enough: int) -> None:
        """Listen on loopback. Cuts every second answer on average, until there are `enough` cuts."""
        self._target = target
        self._chance = chance
        self._enough = enough
        self._lock = threading.Lock()
        self.cuts = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def run(self) -> None:
        """Serve each connection in a thread until `close`."""
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def close(self) -> None:
        """Accept no further connection."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target, PATIENCE_SECONDS) as manager, suppress(OSError):
            client.settimeout(PATIENCE_SECONDS)
            while request := _message(client):
                manager.sendall(request)
                answer = _message(manager)
                if request.startswith(_REPORT) and self._draws_a_cut():
                    self._cut(client, answer)
                    return
                client.sendall(answer)

    def _draws_a_cut(self) -> bool:
        with self._lock:
            is_cut = self.cuts < self._enough and self._chance.random() < 0.5
            self.cuts += is_cut
            return is_cut

    def _cut(self, client: socket.socket, answer: bytes) -> None:
        """Forward nothing or a part of the answer, and end the connection with FIN or RST."""
        with self._lock:
            part = self._chance.choice([0, 0, self._chance.randrange(len(answer))])
            is_reset = self._chance.random() < 0.5
        client.sendall(answer[:part])
        if is_reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _message(stream: socket.socket) -> bytes:
    """Return one HTTP message with a Content-Length, or nothing at the end of the stream."""
    head = b""
    while b"\r\n\r\n" not in head:
        more = stream.recv(_MAX_BYTES)
        if not more:
            return b""
        head += more
    before, _, body = head.partition(b"\r\n\r\n")
    [length] = [int(line[15:]) for line in before.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < length:
        body += stream.recv(_MAX_BYTES)
    return before + b"\r\n\r\n" + body


@contextmanager
def running_proxy(port: int, chance: random.Random, enough: int) -> Iterator[CuttingProxy]:
    """Run a proxy for a port of this machine."""
    proxy = CuttingProxy(("127.0.0.1", port), chance, enough)
    thread = threading.Thread(target=proxy.run)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
