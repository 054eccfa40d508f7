"""Group commit: when outcomes are set, and how a report that cannot be filed affects others."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from kattila_manager.records import Filed, VerifiedReport
from kattila_manager.store.ingest.writer import MAX_PENDING
from kattila_protocol.errors import Overloaded
from support.reports import body, node
from support.store import Filer, filing, new_database, opened, sqlite
from support.waiting import PATIENCE_SECONDS, join_all

NOW = 1_760_000_000_000


def incoming(number: int, sample: int = 1) -> VerifiedReport:
    return opened(body(node(number), sample, NOW), NOW)


def poison(number: int) -> VerifiedReport:
    """Return a report that the database cannot store."""
    one = incoming(number)
    return replace(one, report=replace(one.report, timestamp=2**70))


def at_once(filer: Filer, reports: list[VerifiedReport]) -> list[Filed]:
    """File these reports as one batch: all are queued before any is filed."""
    with filer.store.lock.held():
        waiting = [filer.submit(one) for one in reports]
    return [future.result(PATIENCE_SECONDS) for future in waiting]


def test_the_outcome_is_set_after_the_commit(tmp_path: Path) -> None:
    path = new_database(tmp_path)
    seen: list[bool] = []

    def look(future: Future[Filed]) -> None:
        with sqlite(path) as other:
            row = other.execute("SELECT 1 FROM reports WHERE id = ?", (future.result().report_id,)).fetchone()
            seen.append(row is not None)

    with filing(path) as filer:
        for number in range(300):
            # Runs as soon as the writer has set the result.
            filer.submit(incoming(number % 7, 1 + number // 7)).add_done_callback(look)
    assert seen == [True] * 300


def test_waiting_reports_are_filed_in_one_transaction(tmp_path: Path) -> None:
    path = new_database(tmp_path)
    with filing(path) as filer:
        filer.file(incoming(200))
        before = path.with_name(path.name + "-wal").stat().st_size
        at_once(filer, [incoming(number) for number in range(100)])
        grown = path.with_name(path.name + "-wal").stat().st_size - before
    # A separate commit for each report would write several pages of 4 kB each.
    assert grown < 100 * 4096


def test_a_report_that_cannot_be_filed_does_not_block_the_others(tmp_path: Path) -> None:
    with filing(new_database(tmp_path)) as filer:
        results = at_once(filer, [incoming(1), incoming(2), poison(3), incoming(4), incoming(1, 2)])
        assert [one.outcome for one in results] == ["accepted", "accepted", "overloaded", "accepted", "accepted"]
        assert filer.file(incoming(3)).outcome == "accepted"
        assert [one.report_id for one in results] == [1, 2, None, 3, 4]


def test_the_same_report_twice_in_a_batch_is_stored_once(tmp_path: Path) -> None:
    with filing(new_database(tmp_path)) as filer:
        results = at_once(filer, [incoming(1), incoming(1), incoming(1)])
    assert [one.outcome for one in results] == ["accepted", "duplicate", "duplicate"]


def test_an_unordered_batch_is_judged_one_by_one(tmp_path: Path) -> None:
    with filing(new_database(tmp_path)) as filer:
        results = at_once(filer, [incoming(1, 300), incoming(1, 299), incoming(1, 100), incoming(1, 301)])
    assert [one.outcome for one in results] == ["accepted", "accepted", "replay", "accepted"]
    assert [one.highest_tick for one in results] == [300, 300, 300, 301]


def test_a_full_queue_refuses_at_once(tmp_path: Path) -> None:
    one = incoming(1)
    with filing(new_database(tmp_path)) as filer, filer.store.lock.held():
        # The thread may already have taken one from the queue.
        for _ in range(MAX_PENDING + 1):
            try:
                filer.submit(one)
            except Overloaded as refusal:
                assert refusal.retry_after_seconds
                break
        with pytest.raises(Overloaded):
            filer.submit(one)
            filer.submit(one)


def test_stopping_files_the_waiting_reports(tmp_path: Path) -> None:
    path = new_database(tmp_path)
    filer = Filer(path)
    with filer.store.lock.held():
        waiting = [filer.submit(incoming(number)) for number in range(50)]
        stopping = threading.Thread(target=filer.close)
        stopping.start()
        time.sleep(0.05)
    join_all([stopping])
    assert {future.result(0).outcome for future in waiting} == {"accepted"}


def test_a_database_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    path = new_database(tmp_path)
    with filing(path) as filer, sqlite(path) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = filer.submit(incoming(1))
        time.sleep(1)
        assert not waiting.done()
        other.rollback()
        assert waiting.result(PATIENCE_SECONDS).outcome == "accepted"


def test_a_full_database_refuses_recovers_and_logs_each_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kattila.store")
    with filing(new_database(tmp_path)) as filer:
        filer.file(incoming(1))
        engine = filer.store.engine
        with engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

        def limited(limit: int) -> None:
            # Applies to the one connection that the writer uses.
            with filer.store.lock.held(), engine.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA max_page_count = {limit}")

        limited(int(pages or 0))
        outcomes = [filer.file(incoming(1, sample)).outcome for sample in range(2, 200)]
        assert outcomes[-1] == "overloaded"
        limited(1_000_000)
        assert filer.file(incoming(1, 1000)).outcome == "accepted"
        stored = outcomes.count("accepted") + 2
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM reports").scalar() == stored
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, said
    assert "cannot be filed (database or disk is full)" in said[0]
    assert said[1] == "reports are filed again"
