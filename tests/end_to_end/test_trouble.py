"""A manager whose disk is full, or whose database somebody else holds."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from support.manager import HEALTH, REGISTER, Manager, now_ms, running_manager
from support.reports import Node, body, node, nonce_of, registering, registration_nonce
from support.small_disk import small_disk
from support.store import sqlite


def test_a_full_disk_refuses_signed_and_recovers(tmp_path: Path) -> None:
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
            # What was refused was not kept, and what was accepted was.
            assert connection.execute("SELECT count(*) FROM reports").fetchone() == (sample - 20,)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 4096)
        except OSError:
            return


def outcome(manager: Manager, sender: Node, sample: int) -> str:
    return manager.post(body(sender, sample, now_ms())).verdict(nonce_of(sender, sample, sample)).outcome


def test_a_database_that_somebody_holds_for_three_seconds_is_waited_for(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager, sqlite(manager.database) as other:
        assert outcome(manager, node(1), 1) == "accepted"
        other.execute("BEGIN IMMEDIATE")
        began, outcomes = time.monotonic(), list[tuple[str, float]]()

        def send(number: int) -> None:
            found = outcome(manager, node(number), 2)
            outcomes.append((found, time.monotonic() - began))

        def register(number: int) -> None:
            reply = manager.post(registering(node(number), now_ms()), REGISTER)
            outcomes.append((reply.verdict(registration_nonce(node(number))).outcome, time.monotonic() - began))

        threads = [threading.Thread(target=send, args=(number,)) for number in range(20)]
        threads += [threading.Thread(target=register, args=(number,)) for number in range(20, 32)]
        for thread in threads:
            thread.start()
        slowest = 0.0
        while time.monotonic() - began < 3:
            asked = time.monotonic()
            assert manager.get(HEALTH).status == 200
            slowest = max(slowest, time.monotonic() - asked)
            time.sleep(0.1)
        assert outcomes == []
        other.rollback()
        for thread in threads:
            thread.join(30)
        assert {found for found, _ in outcomes} == {"accepted"}
        assert len(outcomes) == len(threads)
        assert max(took for _, took in outcomes) < 8
        assert slowest < 1
        assert "Traceback" not in manager.log


def test_a_stop_answers_what_is_under_way_and_leaves_no_process(tmp_path: Path) -> None:
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
        time.sleep(0.3)
        assert manager.stop() == 0
        stop.set()
        sending.join(30)
        assert {found for _, found in accepted} == {"accepted"}
        kept = {number for (number,) in manager.rows("SELECT sample FROM reports")}
        assert {number for number, _ in accepted} <= kept
        assert "Traceback" not in manager.log
