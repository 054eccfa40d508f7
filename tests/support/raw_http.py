"""HTTP/1.1 on plain sockets (RFC 9112), for requests that no client library sends and for many at once."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress

from support.manager import Reply
from support.waiting import PATIENCE_SECONDS

JSON = {"Content-Type": "application/json"}
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
# A request that gets this many 503 answers has failed.
ATTEMPTS = 20


def request(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request that closes its connection; a body gets a Content-Length unless `headers` set its length."""
    fields = {"Host": "localhost", "Connection": "close"} | dict(headers or {})
    if body and not {"Content-Length", "Transfer-Encoding"} & set(fields):
        fields["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def updates(body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the request with which an agent sends a report."""
    return request("POST", "/status/updates", body, JSON | dict(headers or {}))


def speak(port: int, sent: bytes, *, quiet_seconds: float = PATIENCE_SECONDS) -> list[Reply]:
    """Send bytes, read until the server closes or is silent for a while, and return its responses."""
    with socket.create_connection(("127.0.0.1", port), timeout=quiet_seconds) as connected:
        # The server may refuse and close before it received everything. Its answer can still be read.
        with suppress(ConnectionError):
            connected.sendall(sent)
        return replies(_all_of(connected))


def replies(received: bytes) -> list[Reply]:
    """Split the bytes from a server into responses."""
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        found.append(Reply(int(first.split(" ")[1]), headers, received[:length]))
        received = received[length:]
    return found


def all_at_once(port: int, requests: Iterable[bytes]) -> list[Reply]:
    """Open a connection for each request, send when all are open, and return the answers in the same order."""
    return asyncio.run(_all_at_once(port, list(requests)))


def settled(port: int, requests: Iterable[bytes]) -> list[tuple[Reply, int]]:
    """Send all requests at once, and repeat those that got a 503, as agents do.

    Returns for each request its last answer and how often it was sent. A report that got a 503 may be stored anyway.
    """
    sent = list(requests)
    found = [(reply, 1) for reply in all_at_once(port, sent)]
    while late := [number for number, (reply, _) in enumerate(found) if reply.status == 503]:
        assert max(times for _, times in found) < ATTEMPTS, f"{len(late)} requests still get a 503"
        for number, reply in zip(late, all_at_once(port, [sent[number] for number in late]), strict=True):
            found[number] = (reply, found[number][1] + 1)
    return found


def allow_open_files(count: int) -> None:
    """Raise the soft limit of open files; fails if the hard limit is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count, hard)), hard))
    assert count <= hard, f"the test needs {count} open files; the hard limit is {hard}"


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Read one response."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return replies(head + await reader.readexactly(length))[0]


async def _all_at_once(port: int, requests: list[bytes]) -> list[Reply]:
    connections: list[_Connection] = []
    try:
        for _ in requests:
            connections.append(await asyncio.open_connection("127.0.0.1", port))
        for (_, writer), sent in zip(connections, requests, strict=True):
            writer.write(sent)
        answers = [_answer(port, sent, connection) for connection, sent in zip(connections, requests, strict=True)]
        return list(await asyncio.gather(*answers))
    finally:
        for _, writer in connections:
            writer.close()


async def _answer(port: int, sent: bytes, connection: _Connection) -> Reply:
    """Read the answer; send again on a new connection, as agents do, if the server closed this one without any."""
    reader, writer = connection
    for _ in range(ATTEMPTS):
        try:
            return await asyncio.wait_for(read_reply(reader), PATIENCE_SECONDS)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            # On a slow machine a connection may wait for its request longer than the server allows.
            assert not getattr(error, "partial", b""), error
        finally:
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
    writer.close()
    raise AssertionError(f"the server closed {ATTEMPTS} connections without an answer")


def _all_of(connected: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionError, TimeoutError):
        while part := connected.recv(65536):
            received += part
    return received
