"""The server of the agent's API: where it listens, what it refuses itself, and how long it waits for requests."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kattila_agent.peer_api.server import LIMITS
from kattila_protocol.request_head import MAX_HEAD_BYTES
from support.agent_api import Node, ask, running_node, speak
from support.agent_folder import PSK, settings
from support.agent_process import run_agent
from support.knot import Knot, free_port
from support.raw_http import replies
from support.waiting import PATIENCE_SECONDS, wait_for

HEALTH = b"GET /status/healthcheck HTTP/1.1\r\nHost: x\r\n"
RESET = b"POST /status/reset HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def node(knot: Knot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running_node(knot, tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (HEALTH + b"X: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (HEALTH + b"X: y\r\n" * 1000 + b"\r\n", 431),
        (HEALTH + b"Expect: 200-maybe\r\n\r\n", 417),
        (RESET + b"Content-Length: 104857600\r\n\r\n", 413),
        (RESET + b"Content-Length: -1\r\n\r\n", 400),
    ],
)
def test_refusals_before_the_application_are_problem_documents_too(node: Node, raw: bytes, status: int) -> None:
    answer = speak(node.port, raw)
    assert (answer.status, answer.problem) == (status, "about:blank")


def test_a_head_may_arrive_in_pieces_up_to_its_limit(node: Node) -> None:
    padding = MAX_HEAD_BYTES - len(HEALTH + b"X: \r\n\r\n")
    head = HEALTH + b"X: " + b"x" * padding + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE_SECONDS) as connection:
        for part in (head[:1], head[1:100], head[100:-3], head[-3:-1], head[-1:]):
            connection.sendall(part)
            time.sleep(0.01)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_two_requests_at_once_are_answered_in_order(node: Node) -> None:
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(HEALTH + b"\r\n" + b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while part := connection.recv(65536):
            received += part
    assert [reply.status for reply in replies(received)] == [200, 404]


def test_stalled_requests_do_not_block_others(node: Node) -> None:
    stalled = [
        socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE_SECONDS)
        for _ in range(LIMITS.per_source - 1)
    ]
    try:
        for connection in stalled:
            connection.sendall(RESET + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\nx")
        assert ask(node.address, "GET", "/status/healthcheck").status == 200
        assert not any(is_closed(connection) for connection in stalled)
    finally:
        for connection in stalled:
            connection.close()


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("limits", "sent"),
    [
        ("head_seconds=1, request_seconds=600", b"GET /"),
        ("head_seconds=600, request_seconds=1", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"),
        ("head_seconds=1, request_seconds=600", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
    ids=["head", "body", "between requests"],
)
def test_a_slow_request_is_closed_although_bytes_arrive(limits: str, sent: bytes) -> None:
    code = (
        "from kattila_agent.peer_api.connections import Limits\n"
        "from kattila_agent.peer_api.listening import address_of, open_sockets\n"
        "from kattila_agent.peer_api.server import serve\n"
        "from kattila_settings.values import Listen\n"
        "sockets = open_sockets([Listen('127.0.0.1', 0)])\n"
        "print(address_of(sockets[0]), flush=True)\n"
        "app = lambda environ, start: start('200 OK', [('Content-Length', '0')]) and []\n"
        f"serve(app, sockets, lambda source: True, Limits({limits})).join()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            host, _, port = server.stdout.readline().strip().rpartition(":")
            began = time.monotonic()
            with socket.create_connection((host, int(port)), timeout=0.1) as connection:
                connection.sendall(sent)
                wait_for(lambda: closed_after_a_byte(connection), "the end of the connection")
            assert time.monotonic() - began > 0.9
        finally:
            server.kill()


def closed_after_a_byte(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"X")
        return connection.recv(65536) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_both_families_and_a_taken_port(knot: Knot, tmp_path: Path) -> None:
    port = free_port()
    with running_node(knot, tmp_path, AGENT_LISTEN=f"*:{port}") as node:
        assert f"answers on 0.0.0.0:{port}, [::]:{port}" in node.daemon.log
        for host in ("127.0.0.1", "[::1]"):
            assert ask(f"{host}:{port}", "GET", "/status/healthcheck").status == 200
        found = run_agent(tmp_path, **settings(knot, node.manager.url, PSK), AGENT_LISTEN=f"127.0.0.1:{port}")
    assert found.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port} (Address already in use)".encode() in found.stderr
    assert b"AGENT_LISTEN" in found.stderr
