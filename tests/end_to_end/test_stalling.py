"""Clients that stall: connections without a request, and headers and bodies that never end."""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.manager import HEALTH, Manager, now_ms, running_manager
from support.raw_http import JSON, allow_open_files, replies, request
from support.reports import body, node, nonce_of
from support.waiting import PATIENCE_SECONDS, wait_for

MANY = 1000
MIB = 1024 * 1024

STALLING = {
    "bodies": request("POST", "/status/updates", b"", JSON | {"Content-Length": "3000"}) + b'{"data":{"agent_id":"',
    "chunked bodies": request("POST", "/status/updates", b"", JSON | {"Transfer-Encoding": "chunked"}) + b"5\r\n{",
    "bodies of registrations": request("POST", "/status/register", b"", JSON | {"Content-Length": "3000"})
    + b'{"data":{',
    "headers": b"POST /status/updates HTTP/1.1\r\nHost: localhost\r\nX-",
    "connections": b"",
    "kept connections": request("GET", HEALTH, b"", {"Connection": "keep-alive"}),
}

# The server closes a connection without a complete header silently.
ENDS = dict.fromkeys(STALLING, (408,)) | {"headers": (), "connections": (), "kept connections": (200,)}


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    allow_open_files(4096)
    with running_manager(tmp_path_factory.mktemp("stalling")) as running:
        yield running


@pytest.mark.parametrize("shares", [{"bodies": MANY}, dict.fromkeys(STALLING, 250)], ids=["bodies", "all kinds"])
def test_a_thousand_stalling_clients_delay_nobody_and_are_disconnected(
    manager: Manager, shares: dict[str, int]
) -> None:
    sender, sample, before = node(len(shares)), 0, manager.rss_bytes()
    stalled = [(kind, opened(manager, STALLING[kind])) for kind, count in shares.items() for _ in range(count)]
    try:
        while not has_ended(stalled[-1][1]):
            sample += 1
            assert manager.get(HEALTH).status == 200
            signed = body(sender, sample, now_ms())
            assert manager.post(signed).verdict(nonce_of(sender, sample, sample)).outcome == "accepted"
            time.sleep(0.2)
        answers = Counter((kind, received(client)) for kind, client in stalled)
    finally:
        for _, client in stalled:
            client.close()
    assert answers == {(kind, ENDS[kind]): count for kind, count in shares.items()}
    # If they blocked others, the first honest report would be answered only after they ended.
    assert sample > 1
    check_released(manager, before)


def opened(manager: Manager, sent: bytes) -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", manager.port), timeout=PATIENCE_SECONDS)
    connected.sendall(sent)
    return connected


def has_ended(stalled: socket.socket) -> bool:
    """Return whether the server ended the connection. Its answer stays unread."""
    poll = select.poll()
    poll.register(stalled, select.POLLRDHUP)
    return bool(poll.poll(0))


def received(stalled: socket.socket) -> tuple[int, ...]:
    content = b""
    try:
        while more := stalled.recv(4096):
            content += more
    except ConnectionResetError:
        pass
    return tuple(reply.status for reply in replies(content))


def check_released(manager: Manager, rss_before: int) -> None:
    wait_for(lambda: max(worker.num_fds() for worker in manager.workers()) <= 60, "all connections to be closed")
    assert manager.rss_bytes() - rss_before < 64 * MIB
    assert "Traceback" not in manager.log


def test_a_slow_body_is_accepted(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        good = body(node(50), 1, now_ms())
        with socket.create_connection(("127.0.0.1", manager.port), timeout=PATIENCE_SECONDS) as slow:
            slow.sendall(request("POST", "/status/updates", b"", JSON | {"Content-Length": str(len(good))}))
            for start in range(0, len(good), len(good) // 10):
                slow.sendall(good[start : start + len(good) // 10])
                time.sleep(0.05)
            (reply,) = replies(slow.recv(65536))
        assert reply.verdict(nonce_of(node(50), 1, 1)).outcome == "accepted"
