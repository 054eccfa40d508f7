"""The agent's API over real sockets: its answers, and every refusal."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
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
from support.agent_api import Node, ask, running_node
from support.agent_folder import AGENT_ID, OTHER_PSK, PSK, keep_id, keep_ring, ring_of, settings
from support.agent_process import AGENT, Daemon, environment, running_daemon
from support.knot import Knot, free_port
from support.netns import new_namespace
from support.waiting import PATIENCE_SECONDS

ASKER = "33333333-3333-4333-8333-333333333333"
KEY = Key.from_psk(PSK)


def now() -> int:
    return int(time.time() * 1000)


def query(**changes: Any) -> PeerQuery:
    return replace(PeerQuery(ASKER, "127.0.0.1", uuid.uuid4().hex, now()), **changes)


def peer_path(asked: PeerQuery, key: Key = KEY, **parameters: str) -> str:
    return "/status/peer?" + urlencode(asked.parameters(key) | parameters)


def asked_reset(**changes: Any) -> Reset:
    return replace(Reset(AGENT_ID, uuid.uuid4().hex, now()), **changes)


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
    telemetry = node.manager.reports()[0].telemetry
    names = [interface.name for interface in said.interfaces]
    assert names == [interface["name"] for interface in telemetry["interfaces"]]
    assert [list(route) for route in said.routes] == telemetry["routes"]
    assert said.hostname == telemetry["system"]["hostname"]


def test_any_own_address_may_be_queried(node: Node) -> None:
    telemetry = node.manager.reports()[0].telemetry
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


def test_an_ipv6_address_may_be_queried(knot: Knot, tmp_path: Path) -> None:
    with running_node(knot, tmp_path, AGENT_LISTEN="[::1]:0") as node:
        assert ask(node.address, "GET", peer_path(query(to="::1"))).status == 200


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
