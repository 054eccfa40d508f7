"""A manager with a full disk, or with a database that another program has locked."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from kattila_manager.store.ingest.writer import COMMIT_SECONDS
from support.manager import HEALTH, REGISTER, Manager, Reply, now_ms, running_manager
from support.raw_http import JSON, all_at_once, allow_open_files, request, settled, updates
from support.reports import Node, body, node, nonce_of, registering, registration_nonce
from support.small_disk import fill, small_disk
from support.store import sqlite
from support.waiting import join_all, wait_for

BURST = 1000
# The agents of a burst all come from one address, within a minute.
MANY_AGENTS = "60000"


def test_a_manager_with_a_full_disk_refuses_with_a_signed_verdict_and_recovers(tmp_path: Path) -> None:
    sender, workers = node(1), 2
    with (
        small_disk(tmp_path / "disk", 4096) as disk,
        running_manager(tmp_path, data_folder=disk) as manager,
    ):
        assert outcome(manager, sender, 1) == "accepted"
        ballast = disk / "ballast"
        fill(ballast)
        sample, refused = 1, 0
        while refused < 20:
            sample += 1
            reply = manager.post(body(sender, sample, now_ms()))
            if reply.status != 200:
                refused += 1
                assert (reply.status, reply.kind) == (503, "overloaded")
                assert int(reply.headers["retry-after"]) > 0
                assert reply.verdict(nonce_of(sender, sample, sample)).outcome == "overloaded"
                assert manager.get(HEALTH).status == 200
            assert sample < 2000
        ballast.unlink()
        for _ in range(20):
            sample += 1
            assert outcome(manager, sender, sample) == "accepted"
        assert manager.log.count("reports cannot be filed") <= workers
        assert "reports are filed again" in manager.log
        assert "Traceback" not in manager.log
        manager.kill()
        with sqlite(manager.database) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            # The accepted reports were stored, and no refused one.
            assert connection.execute("SELECT count(*) FROM reports").fetchone() == (sample - 20,)


def outcome(manager: Manager, sender: Node, sample: int) -> str:
    return manager.post(body(sender, sample, now_ms())).verdict(nonce_of(sender, sample, sample)).outcome


def test_a_lock_of_two_seconds_is_waited_for(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager, sqlite(manager.database) as other:
        assert outcome(manager, node(1), 1) == "accepted"
        other.execute("BEGIN IMMEDIATE")
        outcomes, refused_after = list[str](), list[float]()

        def until_settled(attempt: Callable[[], Reply], nonce: str) -> None:
            """Repeat while the answer is 503, and record how long the manager waited each time."""
            began = time.monotonic()
            while (reply := attempt()).status == 503:
                refused_after.append(time.monotonic() - began)
                began = time.monotonic()
            outcomes.append(reply.verdict(nonce).outcome)

        def send(number: int) -> None:
            until_settled(lambda: manager.post(body(node(number), 2, now_ms())), nonce_of(node(number), 2, 2))

        def register(number: int) -> None:
            sent, nonce = registering(node(number), now_ms()), registration_nonce(node(number))
            until_settled(lambda: manager.post(sent, REGISTER), nonce)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(20)]
        threads += [threading.Thread(target=register, args=(number,)) for number in range(20, 32)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            assert manager.get(HEALTH).status == 200
            time.sleep(0.1)
        # The health check did not wait for the database; the others do.
        assert outcomes == []
        other.rollback()
        join_all(threads)
        # A message may be filed after the manager answered 503.
        assert set(outcomes) <= ({"accepted", "duplicate"} if refused_after else {"accepted"})
        assert len(outcomes) == len(threads)
        assert all(seconds >= COMMIT_SECONDS for seconds in refused_after)
        assert "Traceback" not in manager.log


@contextmanager
def held_by_sqlite(manager: Manager) -> Iterator[None]:
    """Keep a write transaction of another program open."""
    with sqlite(manager.database) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.rollback()


@contextmanager
def held_by_lock_file(manager: Manager) -> Iterator[None]:
    """Hold the lock file, as another worker does that was stopped by SIGSTOP."""
    with manager.database.with_name(f"{manager.database.name}.lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("hold", [held_by_sqlite, held_by_lock_file])
def test_a_burst_on_a_blocked_database_gets_503_and_loses_no_report(
    tmp_path: Path, hold: Callable[[Manager], AbstractContextManager[None]]
) -> None:
    allow_open_files(4096)
    with running_manager(
        tmp_path, workers=1, NEW_AGENTS_PER_MINUTE=MANY_AGENTS, NEW_AGENTS_PER_SOURCE=MANY_AGENTS
    ) as manager:
        now, senders = now_ms(), [node(number) for number in range(1, BURST + 1)]
        reports = [updates(body(sender, 1, now)) for sender in senders]
        with hold(manager):
            others = [request("POST", REGISTER, registering(node(number), now), JSON) for number in range(5000, 5120)]
            others += [request("GET", "/status/agents")] * 30
            refused = all_at_once(manager.port, reports + others)
            assert manager.get(HEALTH).status == 200
        assert {reply.status for reply in refused[:BURST]} == {503}
        assert {reply.status for reply in refused} <= {200, 503}
        for sender, reply in zip(senders, refused, strict=False):
            assert reply.verdict(nonce_of(sender, 1, 1)).outcome == "overloaded"
        assert all(int(reply.headers["retry-after"]) > 0 for reply in refused if reply.status == 503)
        again = settled(manager.port, reports)
        for sender, (reply, _) in zip(senders, again, strict=True):
            assert reply.verdict(nonce_of(sender, 1, 1)).outcome in ("accepted", "duplicate")
        assert manager.rows("SELECT count(*), count(DISTINCT agent_ref) FROM reports") == [(BURST, BURST)]
        wait_for(lambda: manager.get("/status/agents").status == 200, "the list of agents")
        assert "Traceback" not in manager.log


def test_an_unusable_database_gives_503_with_retry_after(tmp_path: Path) -> None:
    with running_manager(tmp_path, workers=1) as manager:
        with sqlite(manager.database) as other, other:
            other.execute("ALTER TABLE agents RENAME TO gone")
        replies = [
            manager.get("/status/agents"),
            manager.post(registering(node(1), now_ms()), REGISTER),
            manager.post(body(node(1), 1, now_ms())),
        ]
        assert [(reply.status, reply.kind) for reply in replies] == [(503, "overloaded")] * 3
        assert all(int(reply.headers["retry-after"]) > 0 for reply in replies)
        assert manager.log.count("GET /status/agents: ") == 1
        assert "no such table: agents" in manager.log
        assert "Traceback" not in manager.log
        with sqlite(manager.database) as other, other:
            other.execute("ALTER TABLE gone RENAME TO agents")
        assert outcome(manager, node(1), 2) == "accepted"


def test_a_stop_answers_open_requests_and_leaves_no_process(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        stop, sample, accepted = threading.Event(), 0, []

        def send() -> None:
            nonlocal sample
            while not stop.is_set():
                sample += 1
                try:
                    accepted.append((sample, outcome(manager, node(1), sample)))
                except OSError:
                    return

        sending = threading.Thread(target=send)
        sending.start()
        wait_for(lambda: len(accepted) > 5, "reports")
        assert manager.stop() == 0
        stop.set()
        join_all([sending])
        assert {found for _, found in accepted} == {"accepted"}
        stored = {number for (number,) in manager.rows("SELECT sample FROM reports")}
        assert {number for number, _ in accepted} <= stored
        assert "Traceback" not in manager.log
