"""The writer's thread survives every failure: waiting reports get an answer, and the log says when it works again."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from kattila_manager.store.ingest.writer import Writer
from kattila_manager.store.store import Store
from support.reports import body, node
from support.store import Filer, filing, new_database, opened
from support.waiting import PATIENCE_SECONDS, wait_for

NOW = 1_760_000_000_000


def outcome(filer: Filer, sample: int) -> str:
    return filer.file(opened(body(node(1), sample, NOW), NOW)).outcome


@contextmanager
def lock_that_cannot_be_taken(store: Store) -> Iterator[None]:
    """Make flock(2) fail with EBADF, as it fails with EIO or ENOLCK on a file system that went away."""
    good, store.lock._descriptor = store.lock._descriptor, os.open(store.path, os.O_PATH)
    try:
        yield
    finally:
        os.close(store.lock._descriptor)
        store.lock._descriptor = good


def test_a_lock_that_cannot_be_taken_refuses_reports_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kattila.store")
    with filing(new_database(tmp_path)) as filer:
        assert outcome(filer, 1) == "accepted"
        with lock_that_cannot_be_taken(filer.store):
            # The thread may be waiting for a report, and takes the lock only after that.
            assert [outcome(filer, sample) for sample in (2, 3, 4)] == ["overloaded"] * 3
        assert outcome(filer, 5) == "accepted"
    assert [(record.levelname, record.getMessage().partition(" (")[0]) for record in caplog.records] == [
        ("ERROR", "reports cannot be filed"),
        ("INFO", "reports are filed again"),
    ]
    assert "Bad file descriptor" in caplog.text


def test_an_idle_writer_survives_a_lock_that_cannot_be_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kattila.store")
    with filing(new_database(tmp_path)) as filer:
        with lock_that_cannot_be_taken(filer.store):
            wait_for(lambda: "reports cannot be filed" in caplog.text, "the failure of an idle writer")
        wait_for(lambda: "reports are filed again" in caplog.text, "the recovery of an idle writer")
        assert outcome(filer, 1) == "accepted"


@pytest.mark.parametrize(
    "error",
    [ValueError("no such counter"), DatabaseError("INSERT", {}, sqlite3.DatabaseError("malformed")), RecursionError()],
    ids=lambda error: type(error).__name__,
)
def test_counters_that_cannot_be_written_cost_no_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    caplog.set_level(logging.INFO, "kattila.store")
    is_broken, calls = threading.Event(), 0

    def write_along(_: Connection) -> None:
        nonlocal calls
        calls += 1
        if is_broken.is_set():
            raise error

    with filing_with(tmp_path, write_along) as filer:
        assert outcome(filer, 1) == "accepted"
        is_broken.set()
        assert [outcome(filer, sample) for sample in (2, 3, 4)] == ["accepted"] * 3
        is_broken.clear()
        before = calls
        wait_for(lambda: calls > before, "counters in an idle second")
        assert outcome(filer, 5) == "accepted"
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert caplog.messages[0].startswith("writing counters and heartbeats failed, and is tried again: ")
    assert caplog.messages[1] == "writing counters and heartbeats works again"


def test_the_thread_survives_an_error_in_its_own_loop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kattila.store")
    with filing(new_database(tmp_path)) as filer:
        # This report already has its outcome, and a second one is an error.
        waiting = opened(body(node(1), 1, NOW), NOW)
        with filer.store.lock.held():
            filer.submit(waiting).set_result(filer.writer._refuse(1, OSError())[0])
        wait_for(lambda: "the writer's loop works again" in caplog.messages, lambda: caplog.text)
        assert outcome(filer, 2) == "accepted"
    assert "the writer's loop failed, and is tried again: InvalidStateError" in caplog.text


@contextmanager
def filing_with(folder: Path, write_along: Callable[[Connection], object]) -> Iterator[Filer]:
    filer = Filer.__new__(Filer)
    filer.store = Store(new_database(folder))
    filer.writer = Writer(filer.store.engine, filer.store.lock, write_along)
    filer.writer.start()
    try:
        yield filer
    finally:
        filer.close()


def test_a_stopped_writer_has_ended(tmp_path: Path) -> None:
    with filing(new_database(tmp_path)) as filer:
        thread = filer.writer._thread
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
