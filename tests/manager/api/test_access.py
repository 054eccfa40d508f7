"""Access to pages, lists and resets: tokens, and requests from loopback."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.manager import HEALTH, RESET, Manager, now_ms, running_manager
from support.netns import new_namespace
from support.raw_http import replies, request, speak
from support.reports import Node, body, node, nonce_of
from support.waiting import PATIENCE_SECONDS

READ, ADMIN = "read-token-of-the-tests", "admin-token-of-the-tests"
READABLE = ["/status/agents", "/status/alarms", "/", "/index.html"]
PAGE = "<p>the front page"


def basic(password: str, user: str = "anybody") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


RIGHT = {
    "bearer": f"Bearer {READ}",
    "bearer in lower case": f"bearer {READ}",
    "basic": basic(READ),
    "basic without a user": basic(READ, ""),
}
WRONG = {
    "nothing": "",
    "another token": "Bearer another-token-of-the-tests",
    "a part of it": f"Bearer {READ[:-1]}",
    "more than it": f"Bearer {READ}x",
    "no scheme": READ,
    "another scheme": f"Digest {READ}",
    "an empty bearer": "Bearer ",
    "basic with another password": basic("another-token-of-the-tests"),
    "basic with the token as user": basic("", READ),
    "basic with invalid base64": "Basic ###",
    "basic with invalid UTF-8": "Basic " + base64.b64encode(b"a:\xff\xfe").decode(),
    "not ASCII": "Bearer \xe4\xf6",
    "the other token": f"Bearer {ADMIN}",
}


@pytest.fixture(scope="module")
def open_manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """Run a manager without tokens, on all addresses: loopback may read, and nobody may reset."""
    with running_manager(tmp_path_factory.mktemp("open"), listen="*") as running:
        publish(running)
        yield running


@pytest.fixture(scope="module")
def locked_manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """Run a manager with both tokens."""
    folder = tmp_path_factory.mktemp("locked")
    with running_manager(folder, READ_TOKEN=READ, ADMIN_TOKEN=ADMIN) as running:
        publish(running)
        yield running
        assert READ not in running.log
        assert ADMIN not in running.log
        assert base64.b64encode(f"anybody:{READ}".encode()).decode() not in running.log
        assert "Traceback" not in running.log


def publish(manager: Manager) -> None:
    (manager.folder / "pages").mkdir()
    (manager.folder / "pages" / "index.html").write_text(PAGE)


@pytest.mark.parametrize("path", READABLE)
@pytest.mark.parametrize("credentials", RIGHT)
def test_a_client_with_the_read_token_may_read(locked_manager: Manager, path: str, credentials: str) -> None:
    assert locked_manager.get(path, {"Authorization": RIGHT[credentials]}).status == 200


@pytest.mark.parametrize("path", READABLE)
@pytest.mark.parametrize("credentials", WRONG)
def test_a_client_without_the_read_token_gets_401(locked_manager: Manager, path: str, credentials: str) -> None:
    reply = locked_manager.get(path, {"Authorization": WRONG[credentials]} if WRONG[credentials] else {})
    assert (reply.status, reply.kind) == (401, "unauthorized")
    assert reply.headers["www-authenticate"].startswith("Basic ")
    assert PAGE.encode() not in reply.body


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:5086", "LOCALHOST", "[::1]", "[::1]:5086"])
@pytest.mark.parametrize("path", READABLE)
def test_without_a_read_token_loopback_may_read(open_manager: Manager, path: str, host: str) -> None:
    (reply,) = speak(open_manager.port, request("GET", path, b"", {"Host": host}))
    assert reply.status == 200


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:5086",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "192.0.2.1",
            "[::2]",
        ),
        *(
            "[::1].evil.example",
            "[::1]evil.example:5086",
            "localhost:evil.example",
            "localhost:0",
            "user@localhost",
            "[::1",
        ),
    ],
)
@pytest.mark.parametrize("path", READABLE)
def test_another_host_name_for_loopback_may_not_read(open_manager: Manager, path: str, host: str) -> None:
    (reply,) = speak(open_manager.port, request("GET", path, b"", {"Host": host}))
    assert (reply.status, reply.kind) == (403, "loopback_only")
    assert PAGE.encode() not in reply.body


def test_ipv6_loopback_is_loopback(open_manager: Manager) -> None:
    for host, status in (("[::1]", 200), ("localhost", 200), ("evil.example", 403)):
        with socket.create_connection(("::1", open_manager.port), timeout=PATIENCE_SECONDS) as connected:
            connected.sendall(request("GET", "/status/agents", b"", {"Host": host}))
            received = b""
            while part := connected.recv(65536):
                received += part
        assert [reply.status for reply in replies(received)] == [status]


def test_another_machine_may_not_read_without_a_token_but_may_report(tmp_path: Path) -> None:
    # Neither end of the connection has a loopback address.
    client = """
import http.client, sys
for path in sys.argv[2:]:
    connection = http.client.HTTPConnection("192.0.2.7", int(sys.argv[1]))
    connection.request("GET", path, headers={"Host": "localhost"})
    print(connection.getresponse().status)
"""
    with new_namespace() as namespace:
        namespace.ip("link", "set", "lo", "up")
        namespace.ip("address", "add", "192.0.2.7/32", "dev", "lo")
        with running_manager(tmp_path, listen="*", within=namespace) as manager:
            publish(manager)
            command = namespace.command(sys.executable, "-c", client, str(manager.port), *READABLE, HEALTH)
            answers = subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=PATIENCE_SECONDS
            ).stdout.split()
    assert answers == ["403"] * len(READABLE) + ["200"]


def test_the_health_check_shows_anyone_only_status_and_version(locked_manager: Manager) -> None:
    for headers in ({}, {"Authorization": f"Bearer {READ}"}, {"Host": "evil.example"}):
        reply = locked_manager.get(HEALTH, headers)
        assert reply.status == 200
        assert set(reply.members) == {"status", "version"}


@pytest.mark.parametrize("path", ["/status/peer", "/status/", "/status/updates/", "/missing.html", "/../manager.log"])
def test_an_unknown_path_is_refused_with_a_problem(open_manager: Manager, path: str) -> None:
    (reply,) = speak(open_manager.port, request("GET", path, b""))
    assert (reply.status, reply.kind, reply.members["status"]) == (404, "not_found", 404)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.members["title"] == "There is nothing at this path."


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/status/updates", "POST"),
        ("PUT", "/status/updates", "POST"),
        ("GET", RESET, "POST"),
        ("POST", "/status/agents", "GET"),
        ("DELETE", "/index.html", "GET"),
    ],
)
def test_another_method_gets_405_with_the_allowed_one(
    open_manager: Manager, method: str, path: str, allowed: str
) -> None:
    (reply,) = speak(open_manager.port, request(method, path, b""))
    assert (reply.status, reply.kind, reply.members["status"]) == (405, "method_not_allowed", 405)
    assert reply.headers["allow"] == allowed
    assert path in reply.members["detail"]


def reset(manager: Manager, wanted: bytes, token: str = ADMIN) -> tuple[int, dict[str, object]]:
    reply = manager.post(wanted, RESET, {"Authorization": f"Bearer {token}"} if token else {})
    return reply.status, reply.members


def report(manager: Manager, sender: Node, sample: int, now: int | None = None, tick: int | None = None) -> str:
    sent = body(sender, sample, now or now_ms(), tick=tick)
    return manager.post(sent).verdict(nonce_of(sender, sample, tick or sample)).outcome


def test_without_an_admin_token_the_reset_does_not_exist(open_manager: Manager) -> None:
    for token in ("", ADMIN, READ):
        status, members = reset(open_manager, b'{"all":true}', token)
        assert (status, members["type"]) == (404, "urn:kattila:problem:not_found")


@pytest.mark.parametrize("token", ["", READ, ADMIN[:-1], "another-token-of-the-tests"])
def test_only_the_admin_token_resets(locked_manager: Manager, token: str) -> None:
    assert report(locked_manager, node(1), 1) in ("accepted", "duplicate")
    status, members = reset(locked_manager, b'{"all":true}', token)
    assert (status, members["type"]) == (401, "urn:kattila:problem:unauthorized")
    assert locked_manager.rows("SELECT max(reset_at) FROM agents") == [(0,)]


@pytest.mark.parametrize(
    "wanted",
    [b"{}", b'{"all":false}', b'{"all":1}', b'{"agent_id":"x"}', b'{"agent_id":null}', b'{"agent_id":["x"]}', b"[]"],
)
def test_an_invalid_reset_is_malformed(locked_manager: Manager, wanted: bytes) -> None:
    status, members = reset(locked_manager, wanted)
    assert (status, members["type"]) == (400, "urn:kattila:problem:malformed")
    assert locked_manager.rows("SELECT max(reset_at) FROM agents WHERE reset_at > 0") == [(None,)]


def test_a_reset_of_one_agent_refuses_its_older_messages(locked_manager: Manager) -> None:
    one, other = node(10), node(11)
    for sender in (one, other):
        assert report(locked_manager, sender, 5) == "accepted"
    before = now_ms()
    status, members = reset(locked_manager, b'{"agent_id":"%b"}' % node(99).agent_id.encode())
    assert (status, members["type"]) == (404, "urn:kattila:problem:unknown_agent")
    assert reset(locked_manager, b'{"agent_id":"%b"}' % one.agent_id.encode()) == (200, {"reset": 1})
    assert report(locked_manager, one, 6, before - 1) == "superseded"
    # The agent's clock counts: if it is behind, its reports wait until it passes the reset.
    assert report(locked_manager, one, 6, now_ms() - 60_000) == "superseded"
    assert report(locked_manager, other, 6, before - 1) == "accepted"
    # Ticks start again, and another machine may take the id; the numbers of stored samples are taken.
    renewed = one.cloned()
    assert report(locked_manager, renewed, 6, tick=1) == "accepted"
    assert report(locked_manager, renewed, 5, tick=2) == "sample_taken"
    query = "SELECT sample FROM reports JOIN agents ON ref = agent_ref WHERE agent_id = ? ORDER BY sample"
    assert locked_manager.rows(query, one.agent_id) == [(5,), (6,)]


def test_a_reset_of_all_agents_survives_a_restart(locked_manager: Manager) -> None:
    senders = [node(number) for number in range(20, 25)]
    for sender in senders:
        assert report(locked_manager, sender, 1) == "accepted"
    captured = [(sender, body(sender, 2, now_ms() - 1)) for sender in senders]
    status, members = reset(locked_manager, b'{"all":true}')
    assert (status, members["reset"]) == (200, locked_manager.rows("SELECT count(*) FROM agents")[0][0])
    locked_manager.kill()
    locked_manager.start()
    for sender, sent in captured:
        reply = locked_manager.post(sent)
        assert (reply.status, reply.verdict(nonce_of(sender, 2, 2)).outcome) == (409, "superseded")
        assert report(locked_manager, sender, 3) == "accepted"
