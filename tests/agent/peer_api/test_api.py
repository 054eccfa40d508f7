"""The agent's API over real sockets: its answers, and every refusal."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from kattila_agent import __version__
from kattila_protocol import canonical, message, peer, reset
from kattila_protocol.freshness import MAX_SKEW_MS
from kattila_protocol.peer import PeerQuery
from kattila_protocol.reset import Reset
from kattila_protocol.signing import Key, Purpose
from support.agent_folder import AGENT_ID, OTHER_PSK, PSK, keep_id, keep_ring, ring_of, settings
from support.agent_process import AGENT, Daemon, environment, run_agent, running_daemon
from support.knot import Knot, free_port
from support.manager_stand_in import StandIn, running_stand_in
from support.netns import new_namespace
from support.waiting import PATIENCE_SECONDS, wait_for

ASKER = "33333333-3333-4333-8333-333333333333"
KEY = Key.from_psk(PSK)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> str:
        """Return the problem's type after checking that it is a problem document."""
        assert self.headers["content-type"] == "application/problem+json"
        members = json.loads(self.body)
        assert members["status"] == self.status
        assert members["title"]
        return str(members["type"]).removeprefix("urn:kattila:problem:")


def ask(
    address: str, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
) -> Answer:
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": content_type} if body is not None else {})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    finally:
        connection.close()


def now() -> int:
    return int(time.time() * 1000)


def query(**changes: Any) -> PeerQuery:
    return replace(PeerQuery(ASKER, "127.0.0.1", uuid.uuid4().hex, now()), **changes)


def peer_path(asked: PeerQuery, key: Key = KEY, **parameters: str) -> str:
    return "/status/peer?" + urlencode(asked.parameters(key) | parameters)


def asked_reset(**changes: Any) -> Reset:
    return replace(Reset(AGENT_ID, uuid.uuid4().hex, now()), **changes)


@dataclass(frozen=True)
class Node:
    address: str
    folder: Path
    daemon: Daemon
    manager: StandIn


@contextmanager
def running_node(knot: Knot, folder: Path, **more: str) -> Iterator[Node]:
    keep_id(folder)
    with running_stand_in(PSK) as manager:
        chosen = settings(knot, manager.url, PSK) | {"INTERVAL": "30"} | more
        with running_daemon(folder, **chosen) as daemon:
            daemon.wait_for_log("the manager takes the reports")
            yield Node(daemon.address(), folder, daemon, manager)


@pytest.fixture(scope="module")
def node(knot: Knot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for all tests that leave it as it is."""
    with running_node(knot, tmp_path_factory.mktemp("node")) as running:
        yield running


def test_the_health_check_shows_only_health_and_version(node: Node) -> None:
    answer = ask(node.address, "GET", "/status/healthcheck")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {"status": "ok", "version": __version__}
    assert answer.headers["server"] == "kattila-agent"


def test_a_signed_query_is_answered(node: Node) -> None:
    asked = query()
    answer = ask(node.address, "GET", peer_path(asked))
    assert answer.status == 200
    said = peer.unseal_answer(answer.body, ring_of(PSK), asked.nonce)
    assert said.agent_id == AGENT_ID
    assert (said.distance, said.next_hop) == (0, None)
    telemetry = node.manager.reports()[0].members["telemetry"]
    names = [interface.name for interface in said.interfaces]
    assert names == [interface["name"] for interface in telemetry["interfaces"]]
    assert [list(route) for route in said.routes] == telemetry["routes"]
    assert said.hostname == telemetry["system"]["hostname"]


def test_any_own_address_may_be_queried(node: Node) -> None:
    telemetry = node.manager.reports()[0].members["telemetry"]
    addresses = [address.partition("/")[0] for link in telemetry["interfaces"] for address in link["addresses"]]
    assert addresses
    assert {ask(node.address, "GET", peer_path(query(to=address))).status for address in addresses} == {200}


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        (lambda: "/status/peer", 400, "malformed"),
        (lambda: peer_path(query(agent_id="somebody")), 400, "malformed"),
        (lambda: peer_path(query(nonce="0")), 400, "malformed"),
        (lambda: peer_path(query(), timestamp="soon"), 400, "malformed"),
        (lambda: peer_path(query(), hmac=""), 403, "bad_signature"),
        (lambda: peer_path(query(), hmac="0" * 64), 403, "bad_signature"),
        (lambda: peer_path(query(), timestamp=str(now() - 5)), 403, "bad_signature"),
        (lambda: peer_path(query(), Key.from_psk(OTHER_PSK)), 403, "bad_signature"),
        (lambda: peer_path(query(), hmac=KEY.sign(Purpose.RESET, b"x")), 403, "bad_signature"),
        (lambda: peer_path(query(to="198.51.100.99")), 403, "bad_signature"),
        (lambda: peer_path(query(to="")), 403, "bad_signature"),
        (lambda: peer_path(query(timestamp=now() - MAX_SKEW_MS - 5000)), 409, "clock_skew"),
        (lambda: peer_path(query(timestamp=now() + MAX_SKEW_MS + 5000)), 409, "clock_skew"),
    ],
)
def test_a_query_that_is_refused(node: Node, path: Any, status: int, problem: str) -> None:
    answer = ask(node.address, "GET", path())
    assert (answer.status, answer.problem) == (status, problem)
    assert b"interfaces" not in answer.body


def test_a_mac_made_for_another_purpose_is_invalid(node: Node) -> None:
    asked = query()
    text = "\n".join((asked.agent_id, asked.to, asked.nonce, str(asked.timestamp))).encode()
    for purpose in Purpose:
        answer = ask(node.address, "GET", peer_path(asked, hmac=KEY.sign(purpose, text)))
        assert answer.status == (200 if purpose is Purpose.PEER else 403), purpose


def test_a_replayed_query_is_refused(node: Node) -> None:
    path = peer_path(query())
    assert ask(node.address, "GET", path).status == 200
    answer = ask(node.address, "GET", path)
    assert (answer.status, answer.problem) == (409, "replay")


def test_a_reset_makes_a_new_id_that_reports_at_once(knot: Knot, tmp_path: Path) -> None:
    with running_node(knot, tmp_path) as node:
        body = reset.seal(asked := asked_reset(), KEY)
        answer = ask(node.address, "POST", "/status/reset", body)
        assert answer.status == 200
        fresh = reset.unseal_answer(answer.body, ring_of(PSK), asked.nonce).new_agent_id
        assert fresh != AGENT_ID
        assert (tmp_path / "agent_id.txt").read_text() == f"{fresh}\n"
        report = node.manager.wait_for_reports(2)[1].members
        assert (report["agent_id"], report["tick"], report["sample"]) == (fresh, 1, 2)
        assert [request.members["agent_id"] for request in node.manager.registrations()] == [AGENT_ID, fresh]
        again = ask(node.address, "POST", "/status/reset", body)
        assert (again.status, again.problem) == (403, "bad_signature")
        assert (tmp_path / "agent_id.txt").read_text() == f"{fresh}\n"
        assert f"reset: {AGENT_ID} is now {fresh}" in node.daemon.log


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (lambda: b"", 400, "malformed"),
        (lambda: b"{}", 400, "malformed"),
        (lambda: canonical.encode(asked_reset()), 400, "malformed"),
        (lambda: reset.seal(asked_reset(), Key.from_psk(OTHER_PSK)), 403, "bad_signature"),
        (lambda: message.seal(Purpose.REGISTER, KEY, asked_reset()), 403, "bad_signature"),
        (lambda: reset.seal(asked_reset(agent_id=ASKER), KEY), 403, "bad_signature"),
        (lambda: reset.seal(asked_reset(timestamp=now() - MAX_SKEW_MS - 5000), KEY), 409, "clock_skew"),
        (lambda: reset.seal(asked_reset(), KEY).replace(b'"nonce":"', b'"nonce": "'), 403, "bad_signature"),
        (lambda: b"[" * 100_000, 400, "malformed"),
        (lambda: b"x" * 300_000, 413, "too_large"),
    ],
)
def test_a_reset_that_is_refused(node: Node, body: Any, status: int, problem: str) -> None:
    answer = ask(node.address, "POST", "/status/reset", body())
    assert (answer.status, answer.problem) == (status, problem)
    assert (node.folder / "agent_id.txt").read_text() == f"{AGENT_ID}\n"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/status/relay", 405),
        ("GET", "/status/peer/../reset", 404),
        ("POST", "/status/peer", 405),
        ("GET", "/status/reset", 405),
        ("DELETE", "/status/healthcheck", 405),
    ],
)
def test_an_unknown_path_or_method(node: Node, method: str, path: str, status: int) -> None:
    answer = ask(node.address, method, path)
    assert (answer.status, answer.problem) == (status, "about:blank")
    assert ("allow" in answer.headers) == (status == 405)


def test_a_reset_of_another_content_type(node: Node) -> None:
    answer = ask(node.address, "POST", "/status/reset", reset.seal(asked_reset(), KEY), "text/plain")
    assert (answer.status, answer.problem) == (415, "wrong_content_type")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /status/healthcheck HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"POST /status/reset HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n", 413),
        (b"POST /status/reset HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
    ],
)
def test_refusals_before_the_application_are_problem_documents_too(node: Node, raw: bytes, status: int) -> None:
    host, _, port = node.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(raw)
        response = http.client.HTTPResponse(connection)
        response.begin()
        answer = Answer(
            response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        )
    assert (answer.status, answer.problem) == (status, "about:blank")


def test_stalled_requests_do_not_block_others(node: Node) -> None:
    host, _, port = node.address.rpartition(":")
    stalled = [socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) for _ in range(100)]
    try:
        for connection in stalled:
            connection.sendall(b"POST /status/reset HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
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


def test_a_slow_request_is_closed_at_its_age() -> None:
    code = (
        "from kattila_agent.peer_api.server import address_of, open_sockets, serve\n"
        "from kattila_settings.values import Listen\n"
        "sockets = open_sockets([Listen('127.0.0.1', 0)])\n"
        "print(address_of(sockets[0]), flush=True)\n"
        "serve(lambda environ, start: start('204 No Content', []) and [], sockets, max_age_seconds=1).join()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            host, _, port = server.stdout.readline().strip().rpartition(":")
            began = time.monotonic()
            with socket.create_connection((host, int(port)), timeout=0.1) as connection:
                wait_for(lambda: closed_after_a_byte(connection), "the end of the connection")
            assert time.monotonic() - began > 0.9
        finally:
            server.kill()


def closed_after_a_byte(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_node_that_cannot_reach_the_manager_says_so(knot: Knot, tmp_path: Path) -> None:
    keep_id(tmp_path)
    with running_daemon(tmp_path, **settings(knot, f"http://127.0.0.1:{free_port()}", PSK)) as daemon:
        daemon.wait_for_log("the manager cannot be reached")
        asked = query()
        answer = ask(daemon.address(), "GET", peer_path(asked))
    said = peer.unseal_answer(answer.body, ring_of(PSK), asked.nonce)
    assert (said.distance, said.next_hop) == (None, None)


def test_a_node_without_a_key_cannot_answer(knot: Knot, tmp_path: Path) -> None:
    with running_daemon(tmp_path, **settings(knot, f"http://127.0.0.1:{free_port()}")) as daemon:
        daemon.wait_for_log("no PSK yet")
        answer = ask(daemon.address(), "GET", peer_path(query()))
        assert ask(daemon.address(), "GET", "/status/healthcheck").status == 200
    assert (answer.status, answer.problem) == (503, "no_key")
    assert answer.headers["retry-after"] == "60"


def test_a_query_signed_with_a_previous_key_is_answered(knot: Knot, tmp_path: Path) -> None:
    keep_ring(tmp_path, OTHER_PSK)
    with running_node(knot, tmp_path) as node:
        asked = query()
        answer = ask(node.address, "GET", peer_path(asked, Key.from_psk(OTHER_PSK)))
        # With that key, so that one who has not seen the new one yet can read it.
        assert peer.unseal_answer(answer.body, ring_of(OTHER_PSK), asked.nonce).agent_id == AGENT_ID


def test_both_families_and_a_taken_port(knot: Knot, tmp_path: Path) -> None:
    port = free_port()
    with running_node(knot, tmp_path, AGENT_LISTEN=f"*:{port}") as node:
        assert f"answers on 0.0.0.0:{port}, [::]:{port}" in node.daemon.log
        for host in ("127.0.0.1", "[::1]"):
            assert ask(f"{host}:{port}", "GET", "/status/healthcheck").status == 200
        asked = query(to="::1")
        assert ask(f"[::1]:{port}", "GET", peer_path(asked)).status == 200
        found = run_agent(tmp_path, **settings(knot, node.manager.url, PSK), AGENT_LISTEN=f"127.0.0.1:{port}")
    assert found.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port} (Address already in use)".encode() in found.stderr
    assert b"AGENT_LISTEN" in found.stderr


@pytest.mark.parametrize(("networks", "status"), [("", 403), ("203.0.113.0/24", 403), ("192.0.2.0/24", 200)])
def test_which_remote_sources_may_send_requests(tmp_path: Path, networks: str, status: int) -> None:
    keep_id(tmp_path)
    keep_ring(tmp_path, PSK)
    chosen = {
        "DNS": "kattila.example.org",
        "DNS_SERVER": "127.0.0.1:53",
        "MANAGER_URL": "http://127.0.0.1:9",
        "AGENT_LISTEN": "192.0.2.1:5087",
        "PEER_NETWORKS": networks,
        # Only lo is measured then.
        "MAX_INTERFACES": "1",
    }
    with new_namespace() as node, new_namespace() as neighbour:
        node.ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", neighbour.name)
        for namespace, address in ((node, "192.0.2.1/24"), (neighbour, "192.0.2.2/24")):
            namespace.ip("link", "set", "lo", "up")
            namespace.ip("address", "add", "127.0.0.53/8", "dev", "lo")
            namespace.ip("address", "add", address, "dev", "veth0")
            namespace.ip("link", "set", "veth0", "up")
        daemon = InNamespace(node.command(*AGENT), tmp_path, chosen)
        try:
            daemon.wait_for_log("the manager cannot be reached")
            asked = ("192.0.2.1", "192.0.2.9", "127.0.0.1", "127.0.0.53")
            paths = ["/status/healthcheck", *(peer_path(query(to=address)) for address in asked)]
            found = [curl(neighbour.command(), path) for path in paths]
            sealed = reset.seal(asked_reset(), KEY).decode()
            found.append(curl(neighbour.command(), "/status/reset", sealed))
            here = curl(node.command(), peer_path(query(to="192.0.2.1")))
        finally:
            daemon.process.terminate()
            daemon.process.wait(timeout=PATIENCE_SECONDS)
    assert found == [200, status, 403, 403, 403, status]
    # From its own address on the link, which is not a loopback address either.
    assert here == status


class InNamespace(Daemon):
    def __init__(self, command: list[str], folder: Path, chosen: dict[str, str]) -> None:
        self.log_file = folder / "stderr.log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment(**chosen), stderr=log)


def curl(command: list[str], path: str, body: str | None = None) -> int:
    code = (
        "import http.client, sys\n"
        "c = http.client.HTTPConnection('192.0.2.1', 5087)\n"
        "body = sys.argv[2] if len(sys.argv) > 2 else None\n"
        "c.request('POST' if body else 'GET', sys.argv[1], body, {'Content-Type': 'application/json'})\n"
        "print(c.getresponse().status)"
    )
    words = [sys.executable, "-c", code, path, *([body] if body else [])]
    return int(subprocess.check_output([*command, *words], timeout=PATIENCE_SECONDS))
