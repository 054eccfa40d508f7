"""Which reports a cycle prunes, and which stay under any limit."""

from __future__ import annotations

import threading
from pathlib import Path

from kattila_manager.store.admin.retention import RetentionLimits, prune, report_bytes
from kattila_manager.store.read import queries
from support.fleet import DAY, HOUR, MINUTE, NOON, SECOND, Fleet, fleet_in
from support.publisher import MIB, ONE, TWO, cycle, page, publisher
from support.reports import node, report
from support.store import all_records
from support.waiting import wait_for


def _all_readable(fleet: Fleet) -> int:
    return len(all_records(fleet.store))


def _days(fleet: Fleet, count: int, every: int) -> None:
    """File `count` reports of one agent, one every `every` ms until noon."""
    sender = node(3)
    for number in range(count, 0, -1):
        fleet.file(report(sender, count - number + 1, NOON - number * every))


def test_reports_over_the_age_limit_are_pruned_and_the_others_stay_readable(fleet: Fleet) -> None:
    _days(fleet, 500, HOUR)
    done = cycle(fleet, limits=RetentionLimits(7 * DAY, 1024 * MIB))
    kept = _all_readable(fleet)
    # Groups, which span at most two hours, are pruned as a whole.
    assert 7 * 24 <= kept - 2 <= 7 * 24 + 3
    assert done.pruned >= 500 - 7 * 24 - 3
    newest = fleet.store.read(lambda connection: queries.record(connection, node(3).agent_id, None))
    assert newest is not None
    assert newest.sample == 500


def test_reports_over_the_size_limit_are_pruned_until_it_fits(fleet: Fleet) -> None:
    _days(fleet, 2000, 10 * MINUTE)
    before = fleet.store.read(report_bytes)
    limit = before * 2 // 3
    for _ in range(20):
        prune(
            fleet.store.engine, fleet.store.lock, RetentionLimits(3000 * DAY, limit), NOON, lambda: True, slice_rows=100
        )
    assert fleet.store.read(report_bytes) <= limit
    kept = _all_readable(fleet)
    assert 1000 < kept < 1950


def test_reports_in_use_stay_under_any_limit(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        _days(fleet, 60, 10 * MINUTE)
        cycle(fleet, limits=RetentionLimits(30 * DAY, 1))
        _check_in_use(fleet)


def _check_in_use(fleet: Fleet) -> None:
    # At least the last hour. A group that started before the remaining rows is unreadable.
    assert 6 <= _all_readable(fleet) <= 18
    assert fleet.rows("SELECT count(*) FROM reports") == [(18,)]
    newest = fleet.store.read(lambda connection: queries.record(connection, node(3).agent_id, None))
    assert newest is not None


def test_the_newest_report_stays_so_that_no_id_is_reused(fleet: Fleet) -> None:
    much_later = NOON + 400 * DAY
    cycle(fleet, much_later)
    assert fleet.rows("SELECT max(id), count(*) FROM reports") == [(2, 1)]
    fleet.file(report(ONE, 2, much_later))
    assert fleet.rows("SELECT max(id) FROM reports") == [(3,)]


def test_an_agent_whose_newest_report_was_pruned_still_has_its_row(fleet: Fleet) -> None:
    fleet.file(report(TWO, 2, NOON + 400 * DAY))
    cycle(fleet, NOON + 400 * DAY)
    assert cycle(fleet, NOON + 400 * DAY + 5 * SECOND).failures == ()
    assert ONE.hostname in page(fleet)
    assert "cannot be read" not in page(fleet)


def test_stopped_pruning_continues_in_the_next_cycle(fleet: Fleet) -> None:
    _days(fleet, 300, HOUR)
    fleet.change("UPDATE reports SET received_at = received_at - ?", 400 * DAY)
    mine = publisher(fleet, RetentionLimits(DAY, 1024 * MIB))
    assert (
        prune(fleet.store.engine, fleet.store.lock, RetentionLimits(DAY, MIB), NOON, lambda: False, slice_rows=50) == 50
    )
    assert mine.cycle(NOON, lambda: False).pruned == 251
    assert mine.cycle(NOON + SECOND, lambda: True).pruned == 0
    assert fleet.rows("SELECT count(*) FROM reports") == [(1,)]


def test_reports_are_accepted_during_pruning(fleet: Fleet) -> None:
    _days(fleet, 1500, HOUR)
    ended = threading.Event()
    taken: list[int] = []
    sender = node(4)

    def keep_reporting() -> None:
        while not ended.is_set():
            sample = len(taken) + 1
            assert fleet.file(report(sender, sample, NOON + sample * SECOND)).outcome == "accepted"
            taken.append(sample)

    def another_was_taken() -> bool:
        before = len(taken)
        return wait_for(lambda: len(taken) > before, "a report between two slices")

    thread = threading.Thread(target=keep_reporting)
    thread.start()
    try:
        limits = RetentionLimits(7 * DAY, 1024 * MIB)
        pruned = prune(fleet.store.engine, fleet.store.lock, limits, NOON, another_was_taken, slice_rows=25)
    finally:
        ended.set()
        thread.join()
    assert pruned > 1300
    assert len(taken) > 50
    kept = all_records(fleet.store)
    mine = [record.sample for record in kept if record.agent_id == sender.agent_id]
    assert mine == taken
    assert fleet.rows("PRAGMA integrity_check") == [("ok",)]
