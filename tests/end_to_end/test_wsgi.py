"""The manager's WSGI application under another server, in one process with several threads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from kattila_keys.refresh import REFRESH_MS
from kattila_protocol.envelope import MAX_BODY_BYTES
from support.commands import OLD_KEY
from support.knot import running_knot
from support.manager import HEALTH, REGISTER, RESET, Manager, now_ms
from support.reports import KEY, PSK, body, node, nonce_of, registering, registration_nonce, sealed_bytes
from support.store import sqlite
from support.waiting import join_all, wait_for

ADMIN = "admin-token-of-the-tests"
SERVING = """
import sys
import waitress
from kattila_manager import compose
compose.log_to_stderr()
waitress.serve(compose.wsgi(), host="127.0.0.1", port=int(sys.argv[1]), threads=8)
"""


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    with serving_under_waitress(Manager(tmp_path_factory.mktemp("wsgi"), ADMIN_TOKEN=ADMIN)) as manager:
        yield manager


@contextmanager
def serving_under_waitress(manager: Manager) -> Iterator[Manager]:
    with manager.log_file.open("ab") as log:
        serving = subprocess.Popen(
            [sys.executable, "-c", SERVING, str(manager.port)],
            cwd=manager.folder,
            env=manager.environment,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until_it_answers(manager, serving)
        yield manager
        assert "Traceback" not in manager.log
    finally:
        serving.kill()
        serving.wait()


def wait_until_it_answers(manager: Manager, serving: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        assert serving.poll() is None, manager.log
        with suppress(OSError):
            return manager.get(HEALTH).status == 200
        return False

    wait_for(answers, lambda: f"an answer from the manager:\n{manager.log}")


def test_all_six_endpoints_answer(manager: Manager) -> None:
    sender = node(1)
    registered = manager.post(registering(sender, now_ms()), REGISTER).verdict(registration_nonce(sender))
    assert (registered.outcome, registered.agent_id) == ("accepted", sender.agent_id)
    assert manager.post(body(sender, 1, now_ms())).verdict(nonce_of(sender, 1, 1)).outcome == "accepted"
    assert set(manager.get(HEALTH).members) == {"status", "version"}
    (agent,) = manager.get("/status/agents").members["agents"]
    assert agent["agent_id"] == sender.agent_id
    assert set(manager.get("/status/alarms").members) == {"open", "closed"}
    token = {"Authorization": f"Bearer {ADMIN}"}
    assert manager.post(b'{"all":true}', RESET, token).members == {"reset": 1}


def test_the_protocol_rules_hold(manager: Manager) -> None:
    sender = node(2)
    captured = body(sender, 1, now_ms())
    threads, outcomes = [], list[str]()
    for _ in range(40):
        send = threading.Thread(
            target=lambda: outcomes.append(manager.post(captured).verdict(nonce_of(sender, 1, 1)).outcome)
        )
        threads.append(send)
        send.start()
    join_all(threads)
    assert Counter(outcomes) == {"accepted": 1, "duplicate": 39}
    assert manager.post(captured.replace(b"north", b"North")).kind == "bad_signature"
    assert manager.post(b"{}").kind == "malformed"
    refused = manager.post(sealed_bytes(b"{}"))
    assert (refused.status, refused.verdict("0" * 32).outcome) == (400, "malformed")
    assert manager.post(b"x" * (MAX_BODY_BYTES + 1)).kind == "too_large"
    assert (
        manager.request("POST", "/status/updates", captured, {"Content-Type": "text/plain"}).kind
        == "wrong_content_type"
    )
    assert KEY.fingerprint in manager.log
    assert re.search(r"psk of the tests", manager.log) is None


def test_a_blocked_database_gives_503_with_retry_after(manager: Manager) -> None:
    sender = node(3)
    with sqlite(manager.database) as other:
        other.execute("BEGIN IMMEDIATE")
        reply = manager.post(body(sender, 1, now_ms()))
        other.rollback()
    assert (reply.status, reply.verdict(nonce_of(sender, 1, 1)).outcome) == (503, "overloaded")
    assert int(reply.headers["retry-after"]) > 0


def test_the_server_is_one_process(manager: Manager) -> None:
    # Threads and worker processes are made safe by different means; this test is about threads.
    rows = manager.rows("SELECT worker FROM receivers")
    assert len(rows) == 1
    assert rows[0][0] != os.getpid()


def test_the_key_is_refreshed_every_hour_without_any_request(tmp_path: Path) -> None:
    with running_knot({"kattila": [PSK]}) as knot:
        ring_in_dns = Manager(tmp_path, ring=None, DNS="kattila.example.org", DNS_SERVER=knot.address)
        with serving_under_waitress(ring_in_dns) as manager:
            wait_for(lambda: manager.ring_file.read().ring.entries, "the first key")
            knot.set_txt("kattila", OLD_KEY.psk)
            hour_ago = now_ms() - 2 * REFRESH_MS
            manager.ring_file.update(lambda stored: replace(stored, asked_at=hour_ago, answered_at=hour_ago))
            wait_for(lambda: manager.ring_file.read().ring.current == OLD_KEY, "the new key")
