"""A real HTTP server in the place of a sibling agent, with the behaviour that a test sets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kattila_protocol import peer
from kattila_protocol.peer import PeerAnswer
from kattila_protocol.signing import Key
from support.waiting import PATIENCE_SECONDS

# Takes the handler of a request, and answers or not.
Behaviour = Callable[[BaseHTTPRequestHandler], None]


def close(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


@contextmanager
def serving(behave: Behaviour, host: str = "127.0.0.1", port: int = 0, *, on_post: Behaviour = close) -> Iterator[int]:
    """Run a server and yield its port; `behave` handles GET and `on_post` handles POST."""

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_SECONDS

        def do_GET(self) -> None:
            behave(self)

        def do_POST(self) -> None:
            on_post(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with _Server((host, port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def parameters(handler: BaseHTTPRequestHandler) -> dict[str, str]:
    """Return the query parameters of a request."""
    return dict(parse_qsl(urlsplit(handler.path).query))


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    """Send an answer; `headers` are added to the usual ones or replace them."""
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def responds(body: bytes, status: int = 200, **headers: str) -> Behaviour:
    """Return a behaviour that always sends the same answer."""
    return lambda handler: send(handler, body, status, **headers)


def answers_as(
    key: Key, agent_id: str, distance: int | None = 0, next_hop: str | None = None, **members: Any
) -> Behaviour:
    """Return the behaviour of an agent with these members in its answers; a `nonce` replaces that of the query."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        rest = {"hostname": "sibling", "interfaces": (), "routes": (), "nonce": parameters(handler)["nonce"]} | members
        answer = PeerAnswer(agent_id=agent_id, distance=distance, next_hop=next_hop, **rest)
        send(handler, peer.seal_answer(answer, key))

    return behave


def silence(handler: BaseHTTPRequestHandler) -> None:
    """Send nothing until the client closes the connection."""
    handler.rfile.read(1)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Send an answer of one byte every 0.1 s."""
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.1)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, place: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        super().__init__(place, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the error: the client has closed the connection."""
