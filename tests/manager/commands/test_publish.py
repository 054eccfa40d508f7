"""`kattila-manager publish` as a separate process."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from support.commands import ONE, run
from support.fleet import Fleet, fleet_in
from support.manager import MANAGER, Manager, now_ms
from support.reports import report
from support.waiting import PATIENCE_SECONDS, wait_for


def test_publish_once_prints_a_summary(manager: Manager, fleet: Fleet) -> None:
    done = run(manager, "publish", "--once")
    assert done.stdout == (
        f"3 agents; 1 alarm opened, 0 closed; 1 page written to {manager.folder}/pages; 0 reports pruned\n"
    )
    assert "alarm opened: previous_key" in done.stderr
    assert "1 alarm is open." in (manager.folder / "pages" / "index.html").read_text()


def test_publish_once_exits_1_and_logs_the_cause_if_it_fails(manager: Manager, fleet: Fleet) -> None:
    (manager.folder / "pages").touch()
    done = run(manager, "publish", "--once", code=1)
    assert "rendering the pages failed" in done.stderr
    assert "correct PAGES_DIR" in done.stderr


def test_publish_waits_for_a_database_continues_and_stops_cleanly(manager: Manager) -> None:
    index = manager.folder / "pages" / "index.html"
    command = [*MANAGER, "publish", "--every", "0.2"]
    with subprocess.Popen(command, cwd=manager.folder, env=manager.environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            first = process.stderr.readline().decode()
            time.sleep(0.5)
            assert process.poll() is None
            assert not index.exists()
            with fleet_in(manager.folder) as fleet:
                fleet.beat(now_ms())
                _wait_for(index, "No agent has reported yet.")
                fleet.file(report(ONE, 1, now_ms()))
                _wait_for(index, "The only agent reports.")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()
        rest = process.stderr.read().decode()
    assert first.startswith("WARNING kattila.publish: waiting: there is no database of ")
    assert rest == f"INFO kattila.publish: publishing, now that {manager.database} can be used\n"


def test_publish_raises_an_alarm_for_an_ambiguous_record_and_closes_it(manager: Manager, fleet: Fleet) -> None:
    manager.ring_file.update(
        lambda stored: replace(stored, candidates=("00000001", "00000002"), ambiguous_since=now_ms())
    )
    done = run(manager, "publish", "--once")
    assert "alarm opened: record_ambiguous, TXT record: 2 TXT records could be the PSK" in done.stderr
    index = (manager.folder / "pages" / "index.html").read_text()
    assert "Record ambiguous" in index
    assert "TXT record</bdi>" in index
    assert "TXT record" in run(manager, "alarms").stdout
    manager.ring_file.update(lambda stored: replace(stored, candidates=(), ambiguous_since=None))
    assert "alarm closed: record_ambiguous, TXT record" in run(manager, "publish", "--once").stderr


def _not_a_database(database: Path) -> None:
    database.write_bytes(b"x" * 8192)


def _a_folder(database: Path) -> None:
    database.mkdir()


def _no_folder_for_locks(database: Path) -> None:
    # Not even root can open a folder as the lock file.
    database.with_name(database.name + ".lock").mkdir()
    sqlite3.connect(database).close()


@pytest.mark.parametrize("damage", [_not_a_database, _a_folder, _no_folder_for_locks])
def test_publish_waits_for_a_database_that_cannot_be_used(manager: Manager, damage: Callable[[Path], None]) -> None:
    damage(manager.database)
    command = [*MANAGER, "publish", "--every", "0.05"]
    log = manager.folder / "publish.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=manager.folder, env=manager.environment, stderr=stderr)
    try:
        wait_for(lambda: "waiting: " in log.read_text() or process.poll() is not None, "a line that it waits")
        time.sleep(0.5)
        assert process.poll() is None, log.read_text()
        for path in (manager.database, manager.database.with_name(manager.database.name + ".lock")):
            if path.is_dir():
                path.rmdir()
            path.unlink(missing_ok=True)
        with fleet_in(manager.folder) as fleet:
            fleet.beat(now_ms())
            _wait_for(manager.folder / "pages" / "index.html", "No agent has reported yet.")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    assert log.read_text().count("WARNING") <= 2
    assert "INFO kattila.publish: publishing, now that " in log.read_text()
    assert "Traceback" not in log.read_text()


def _wait_for(page: Path, words: str) -> None:
    wait_for(lambda: page.exists() and words in page.read_text(), f"{words!r} on the page")
