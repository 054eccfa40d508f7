"""The load generator counts correctly when servers answer, close connections, or stop answering."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import load
from load import Client, Plan, Result
from requests_file import Requests, write_requests
from support.waiting import PATIENCE_SECONDS

HEAD = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"


class Answering(BaseHTTPRequestHandler):
    """Accepts a report unless its body says otherwise, and records the connection of each body."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen: dict[bytes, list[int]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.setdefault(body, []).append(self.client_address[1])
        if body == b"drop":
            self.close_connection = True
            return
        answer = b'{"data":{"outcome":"replay"}}' if body == b"refuse" else b'{"data":{"outcome":"accepted"}}'
        self.send_response(409 if body == b"refuse" else 200)
        self.send_header("content-length", str(len(answer)))
        if body == b"close":
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[tuple[int, dict[bytes, list[int]]]]:
    seen: dict[bytes, list[int]] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answering,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(tmp_path: Path, bodies: list[bytes], plan: Plan) -> tuple[Result, Requests]:
    assert write_requests(tmp_path / "requests", HEAD, bodies) == len(bodies)
    requests = Requests(tmp_path / "requests")
    return Client(requests, plan).run(), requests


def test_each_request_is_sent_once_and_counted_by_its_answer(tmp_path: Path) -> None:
    bodies = [b"refuse" if number == 40 else b"body %d" % number for number in range(100)]
    with serving() as (port, seen):
        result, requests = send(tmp_path, bodies, Plan(port, seconds=PATIENCE_SECONDS, connections=4, keep_every=20))
    assert result.outcomes == {"200 accepted": 99, "409 replay": 1}
    assert sorted(seen) == sorted(bodies)
    assert all(len(connections) == 1 for connections in seen.values())
    assert result.kept["40"] == '{"data":{"outcome":"replay"}}'
    assert (len(result.kept), result.unanswered, result.broken) == (5, 0, [])
    assert requests.body(40) == b"refuse"


def test_an_agent_stays_on_its_connection(tmp_path: Path) -> None:
    bodies = [b"agent %d" % (number % 7) for number in range(70)]
    with serving() as (port, seen):
        result, _ = send(tmp_path, bodies, Plan(port, seconds=PATIENCE_SECONDS, connections=3, agents=7))
    assert result.answers == 70
    assert {body: len(set(connections)) for body, connections in seen.items()} == dict.fromkeys(seen, 1)


def test_a_connection_closed_after_an_answer_is_opened_again(tmp_path: Path) -> None:
    with serving() as (port, seen):
        result, _ = send(tmp_path, [b"close"] * 10, Plan(port, seconds=PATIENCE_SECONDS, connections=2))
    assert (result.answers, result.unanswered, result.broken) == (10, 0, [])
    assert len(set(seen[b"close"])) == 10


def test_a_dropped_connection_is_reported(tmp_path: Path) -> None:
    with serving() as (port, _):
        result, _ = send(
            tmp_path, [b"one", b"drop", b"never sent"], Plan(port, seconds=PATIENCE_SECONDS, connections=1)
        )
    assert (result.answers, result.unanswered) == (1, 1)
    assert result.broken == ["closed by the server"]


def test_a_run_ends_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "DRAIN_SECONDS", PATIENCE_SECONDS)
    with serving() as (port, _):
        result, _ = send(tmp_path, [b"body"] * 200_000, Plan(port, seconds=2, connections=4))
    assert 0 < result.answers < 200_000
    assert result.unanswered == 0


def test_a_rate_is_kept(tmp_path: Path) -> None:
    with serving() as (port, _):
        result, _ = send(tmp_path, [b"body"] * 50, Plan(port, seconds=PATIENCE_SECONDS, connections=4, rate=100))
    assert result.answers == 50
    assert result.elapsed_seconds >= 49 / 100


def test_a_server_that_never_answers_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "DRAIN_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        plan = Plan(silent.getsockname()[1], seconds=2, connections=3)
        result, _ = send(tmp_path, [b"body"] * 10, plan)
    assert (result.answers, result.unanswered) == (0, 3)
