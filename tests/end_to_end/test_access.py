"""Who may read and who may reset: tokens, loopback, and what nobody is told."""

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
    "basic that is no base64": "Basic ###",
    "basic that is no UTF-8": "Basic " + base64.b64encode(b"a:\xff\xfe").decode(),
    "not ASCII": "Bearer \xe4\xf6",
    "the other token": f"Bearer {ADMIN}",
}


@pytest.fixture(scope="module")
def open_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """No tokens: loopback may read, nobody may reset. Listens on all addresses of both families."""
    with running_manager(tmp_path_factory.mktemp("open"), listen="*") as running:
        publish(running)
        yield running


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """Both tokens are set."""
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
@pytest.mark.parametrize("how", RIGHT)
def test_who_shows_the_read_token_may_read(locked: Manager, path: str, how: str) -> None:
    assert locked.get(path, {"Authorization": RIGHT[how]}).status == 200


@pytest.mark.parametrize("path", READABLE)
@pytest.mark.parametrize("how", WRONG)
def test_who_does_not_is_asked_for_it(locked: Manager, path: str, how: str) -> None:
    reply = locked.get(path, {"Authorization": WRONG[how]} if WRONG[how] else {})
    assert (reply.status, reply.kind) == (401, "unauthorized")
    assert reply.headers["www-authenticate"].startswith("Basic ")
    assert PAGE.encode() not in reply.body


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:5086", "LOCALHOST", "[::1]", "[::1]:5086"])
@pytest.mark.parametrize("path", READABLE)
def test_without_a_token_this_machine_may_read(open_one: Manager, path: str, host: str) -> None:
    (reply,) = speak(open_one.port, request("GET", path, b"", {"Host": host}))
    assert reply.status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:5086", "localhost.evil.example", "127.0.0.1.evil.example", "", "192.0.2.1", "[::2]"],
)
@pytest.mark.parametrize("path", READABLE)
def test_a_name_that_was_bound_to_loopback_does_not_open_it(open_one: Manager, path: str, host: str) -> None:
    (reply,) = speak(open_one.port, request("GET", path, b"", {"Host": host}))
    assert (reply.status, reply.kind) == (403, "loopback_only")
    assert PAGE.encode() not in reply.body


def test_loopback_of_the_sixth_version_is_loopback(open_one: Manager) -> None:
    for host, status in (("[::1]", 200), ("localhost", 200), ("evil.example", 403)):
        with socket.create_connection(("::1", open_one.port), timeout=PATIENCE_SECONDS) as connected:
            connected.sendall(request("GET", "/status/agents", b"", {"Host": host}))
            received = b""
            while part := connected.recv(65536):
                received += part
        assert [reply.status for reply in replies(received)] == [status]


def test_another_machine_may_not_read_without_a_token_but_may_report(tmp_path: Path) -> None:
    # An address of its own, and neither end of the connection is loopback's.
    asking = """
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
            command = namespace.command(sys.executable, "-c", asking, str(manager.port), *READABLE, HEALTH)
            answers = subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=PATIENCE_SECONDS
            ).stdout.split()
    assert answers == ["403"] * len(READABLE) + ["200"]


def test_the_health_check_tells_anyone_health_and_version_and_nothing_else(locked: Manager) -> None:
    for headers in ({}, {"Authorization": f"Bearer {READ}"}, {"Host": "evil.example"}):
        reply = locked.get(HEALTH, headers)
        assert reply.status == 200
        assert set(reply.members) == {"status", "version"}


@pytest.mark.parametrize("path", ["/status/peer", "/status/", "/status/updates/", "/missing.html", "/../manager.log"])
def test_what_is_not_there_is_refused_like_all_else(open_one: Manager, path: str) -> None:
    (reply,) = speak(open_one.port, request("GET", path, b""))
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
def test_another_method_is_told_the_right_one(open_one: Manager, method: str, path: str, allowed: str) -> None:
    (reply,) = speak(open_one.port, request(method, path, b""))
    assert (reply.status, reply.kind, reply.members["status"]) == (405, "method_not_allowed", 405)
    assert reply.headers["allow"] == allowed
    assert path in reply.members["detail"]


def reset(manager: Manager, wanted: bytes, token: str = ADMIN) -> tuple[int, dict[str, object]]:
    reply = manager.post(wanted, RESET, {"Authorization": f"Bearer {token}"} if token else {})
    return reply.status, reply.members


def report(manager: Manager, sender: Node, sample: int, now: int | None = None, tick: int | None = None) -> str:
    sent = body(sender, sample, now or now_ms(), tick=tick)
    return manager.post(sent).verdict(nonce_of(sender, sample, tick or sample)).outcome


def test_without_an_admin_token_there_is_no_reset(open_one: Manager) -> None:
    for token in ("", ADMIN, READ):
        status, members = reset(open_one, b'{"all":true}', token)
        assert (status, members["type"]) == (404, "urn:kattila:problem:not_found")


@pytest.mark.parametrize("token", ["", READ, ADMIN[:-1], "another-token-of-the-tests"])
def test_only_the_admin_token_resets(locked: Manager, token: str) -> None:
    assert report(locked, node(1), 1) in ("accepted", "duplicate")
    status, members = reset(locked, b'{"all":true}', token)
    assert (status, members["type"]) == (401, "urn:kattila:problem:unauthorized")
    assert locked.rows("SELECT max(reset_at) FROM agents") == [(0,)]


@pytest.mark.parametrize(
    "wanted",
    [b"{}", b'{"all":false}', b'{"all":1}', b'{"agent_id":"x"}', b'{"agent_id":null}', b'{"agent_id":["x"]}', b"[]"],
)
def test_a_reset_that_says_something_else_is_malformed(locked: Manager, wanted: bytes) -> None:
    status, members = reset(locked, wanted)
    assert (status, members["type"]) == (400, "urn:kattila:problem:malformed")
    assert locked.rows("SELECT max(reset_at) FROM agents WHERE reset_at > 0") == [(None,)]


def test_a_reset_forgets_one_agent_and_refuses_what_was_signed_before(locked: Manager) -> None:
    one, other = node(10), node(11)
    for sender in (one, other):
        assert report(locked, sender, 5) == "accepted"
    before = now_ms()
    status, members = reset(locked, b'{"agent_id":"%b"}' % node(99).agent_id.encode())
    assert (status, members["type"]) == (404, "urn:kattila:problem:unknown_agent")
    assert reset(locked, b'{"agent_id":"%b"}' % one.agent_id.encode()) == (200, {"reset": 1})
    assert report(locked, one, 6, before - 1) == "superseded"
    # The agent's clock counts: where it is behind, its reports wait until it has passed the reset.
    assert report(locked, one, 6, now_ms() - 60_000) == "superseded"
    assert report(locked, other, 6, before - 1) == "accepted"
    # Numbers begin anew, and so may the machine; measurements that are kept are not measured twice.
    renewed = one.cloned()
    assert report(locked, renewed, 6, tick=1) == "accepted"
    assert report(locked, renewed, 5, tick=2) == "duplicate"
    query = "SELECT sample FROM reports JOIN agents ON ref = agent_ref WHERE agent_id = ? ORDER BY sample"
    assert locked.rows(query, one.agent_id) == [(5,), (6,)]


def test_a_reset_of_all_holds_across_a_restart(locked: Manager) -> None:
    senders = [node(number) for number in range(20, 25)]
    for sender in senders:
        assert report(locked, sender, 1) == "accepted"
    captured = [(sender, body(sender, 2, now_ms() - 1)) for sender in senders]
    status, members = reset(locked, b'{"all":true}')
    assert (status, members["reset"]) == (200, locked.rows("SELECT count(*) FROM agents")[0][0])
    locked.kill()
    locked.start()
    for sender, sent in captured:
        reply = locked.post(sent)
        assert (reply.status, reply.verdict(nonce_of(sender, 2, 2)).outcome) == (409, "superseded")
        assert report(locked, sender, 3) == "accepted"
