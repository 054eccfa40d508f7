"""Clients that hold what they were given: connections without a request, heads and bodies that stall half-way."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.manager import HEALTH, Manager, now_ms, running_manager
from support.raw_http import JSON, allow_open_files, replies, request
from support.reports import body, node, nonce_of

MANY = 1000
# What the server grants for a head, and for a body behind it.
GRANTED_SECONDS = 10.0
MIB = 1024 * 1024

STALLING = {
    "bodies": request("POST", "/status/updates", b"", JSON | {"Content-Length": "3000"}) + b'{"data":{"agent_id":"',
    "chunked bodies": request("POST", "/status/updates", b"", JSON | {"Transfer-Encoding": "chunked"}) + b"5\r\n{",
    "bodies elsewhere": request("POST", "/status/register", b"", JSON | {"Content-Length": "3000"}) + b'{"data":{',
    "heads": b"POST /status/updates HTTP/1.1\r\nHost: localhost\r\nX-",
    "connections": b"",
    "kept connections": request("GET", HEALTH, b"", {"Connection": "keep-alive"}),
}

# A connection without a whole head is closed without a word.
ENDS = dict.fromkeys(STALLING, (408,)) | {"heads": (), "connections": (), "kept connections": (200,)}


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    allow_open_files(4096)
    with running_manager(tmp_path_factory.mktemp("stalling")) as running:
        yield running


@pytest.mark.parametrize("shares", [{"bodies": MANY}, dict.fromkeys(STALLING, 250)], ids=["bodies", "all kinds"])
def test_a_thousand_that_stall_hold_up_nobody_and_are_ended(manager: Manager, shares: dict[str, int]) -> None:
    sender, sample, before = node(len(shares)), 0, manager.rss_bytes()
    began = time.monotonic()
    stalled = [(what, opened(manager, STALLING[what])) for what, count in shares.items() for _ in range(count)]
    try:
        while time.monotonic() - began < GRANTED_SECONDS - 1:
            sample += 1
            check_honest(manager, sample, body(sender, sample, now_ms()), nonce_of(sender, sample, sample))
            time.sleep(0.2)
        answers = Counter((what, received(one)) for what, one in stalled)
        assert time.monotonic() - began < GRANTED_SECONDS + 8
    finally:
        for _, one in stalled:
            one.close()
    assert answers == {(what, ENDS[what]): count for what, count in shares.items()}
    assert sample >= 10
    check_as_before(manager, before)


def opened(manager: Manager, sent: bytes) -> socket.socket:
    connected = socket.create_connection(("127.0.0.1", manager.port), timeout=30)
    connected.sendall(sent)
    return connected


def check_honest(manager: Manager, sample: int, report: bytes, nonce: str) -> None:
    began = time.monotonic()
    assert manager.get(HEALTH).status == 200
    healthy = time.monotonic()
    assert healthy - began < 1
    assert manager.post(report).verdict(nonce).outcome == "accepted"
    assert time.monotonic() - healthy < 2


def received(stalled: socket.socket) -> tuple[int, ...]:
    got = b""
    try:
        while more := stalled.recv(4096):
            got += more
    except ConnectionResetError:
        pass
    return tuple(reply.status for reply in replies(got))


def check_as_before(manager: Manager, rss_before: int) -> None:
    deadline = time.monotonic() + 5
    while max(worker.num_fds() for worker in manager.workers()) > 60:
        assert time.monotonic() < deadline, "connections were left open"
        time.sleep(0.05)
    assert manager.rss_bytes() - rss_before < 64 * MIB
    assert "Traceback" not in manager.log


def test_a_slow_honest_body_is_waited_for(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        good = body(node(50), 1, now_ms())
        with socket.create_connection(("127.0.0.1", manager.port), timeout=10) as slow:
            slow.sendall(request("POST", "/status/updates", b"", JSON | {"Content-Length": str(len(good))}))
            for start in range(0, len(good), len(good) // 10):
                slow.sendall(good[start : start + len(good) // 10])
                time.sleep(0.05)
            (reply,) = replies(slow.recv(65536))
        assert reply.verdict(nonce_of(node(50), 1, 1)).outcome == "accepted"
