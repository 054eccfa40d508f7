"""Late samples from a spool are marked, and never replace newer state."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kattila_manager.store.read import queries
from kattila_protocol.names import MAX_COUNTER
from kattila_protocol.report import Report, Spool
from kattila_protocol.signing import Key
from support.counts import examples
from support.fleet import DAY, HOUR, MINUTE, NOON, SECOND, Fleet, fleet_in
from support.reports import node, report

ONE, RELAY = node(1), node(2)
OLD_KEY = Key.from_psk(b"psk of the month before, protects nothing")
# State from the newest sample, and state from the newest message.
OF_MEASUREMENT = (
    "hostname",
    "agent_version",
    "highest_sample",
    "latest_report_id",
    "relay_path",
    "waiting",
    "dropped",
    "dropped_at",
)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as made:
        yield made


def late(sample: int, tick: int, sampled_at: int, now: int = NOON) -> Report:
    """Return a sample from the spool, signed again at `now`."""
    return report(ONE, sample, now, tick=tick, sampled_at=sampled_at)


def marks(fleet: Fleet) -> dict[int, int | None]:
    return dict(fleet.rows("SELECT sample, sampled_at FROM reports ORDER BY sample"))


def with_spool(said: Report, spool: Spool | None) -> Report:
    return replace(said, telemetry=replace(said.telemetry, spool=spool))


# --- Which samples are late


def test_a_sample_below_the_highest_is_late(fleet: Fleet) -> None:
    fleet.file(report(ONE, 20, NOON))
    assert fleet.file(late(10, 21, NOON - 5 * MINUTE)).outcome == "accepted"
    fleet.file(report(ONE, 21, NOON + SECOND, tick=22))
    assert marks(fleet) == {10: NOON - 5 * MINUTE, 20: None, 21: None}


def test_an_old_sample_is_late_even_if_it_is_the_newest(fleet: Fleet) -> None:
    fleet.file(late(1, 1, NOON - HOUR))
    fleet.file(late(2, 2, NOON - MINUTE))
    assert marks(fleet) == {1: NOON - HOUR, 2: None}


def test_a_late_sample_is_dated_by_our_clock(fleet: Fleet) -> None:
    behind = 9 * MINUTE
    fleet.file(report(ONE, 20, NOON - behind), at=NOON)
    fleet.file(late(10, 21, NOON - behind - 5 * MINUTE, NOON - behind), at=NOON)
    assert marks(fleet) == {10: NOON - 5 * MINUTE, 20: None}


@pytest.mark.parametrize(("sampled_at", "dated"), [(0, 0), (MAX_COUNTER, NOON), (NOON + DAY, NOON), (NOON, NOON)])
def test_a_late_sample_is_never_dated_in_the_future_or_before_1970(fleet: Fleet, sampled_at: int, dated: int) -> None:
    fleet.file(report(ONE, 20, NOON))
    fleet.file(late(10, 21, sampled_at))
    assert marks(fleet)[10] == dated


@pytest.mark.parametrize("clock", [0, NOON + DAY, NOON - 400 * DAY])
def test_a_boot_with_another_clock_is_dated_between_its_neighbours(fleet: Fleet, clock: int) -> None:
    fleet.file(report(ONE, 1, NOON))
    fleet.file(report(ONE, 40, NOON + HOUR), at=NOON + HOUR)
    for sample in (2, 3, 4):
        fleet.file(late(sample, 40 + sample, clock + sample * SECOND, NOON + HOUR), at=NOON + HOUR)
    moments = [at or NOON for at in list(marks(fleet).values())[:-1]]
    assert moments == sorted(moments)
    assert min(moments) >= NOON
    assert max(moments) <= NOON + HOUR


def test_a_record_shows_that_it_was_late(fleet: Fleet) -> None:
    fleet.file(report(ONE, 20, NOON))
    fleet.file(late(10, 21, NOON - MINUTE))
    found = [fleet.store.read(partial(queries.record, agent_id=ONE.agent_id, sample=sample)) for sample in (20, 10)]
    assert [record and record.sampled_at for record in found] == [None, NOON - MINUTE]


# --- Effects


def test_a_late_sample_updates_only_the_newest_message(fleet: Fleet) -> None:
    fleet.file(with_spool(report(ONE, 20, NOON, tick=100), Spool(19, 5000, 3)), relays=(RELAY.agent_id,))
    before = fleet.members(ONE.agent_id)
    renamed = replace(ONE, hostname="its-old-name.example.net")
    old = replace(late(10, 101, NOON - HOUR, NOON + 2 * SECOND), telemetry=report(renamed, 10, NOON).telemetry)
    fleet.file(with_spool(old, Spool(1, 100, 2)), at=NOON + 3 * SECOND, key=OLD_KEY)
    after = fleet.members(ONE.agent_id)
    assert {name: after[name] for name in OF_MEASUREMENT} == {name: before[name] for name in OF_MEASUREMENT}
    assert (after["highest_tick"], after["last_seen_at"]) == (101, NOON + 3 * SECOND)
    assert (after["fingerprint"], after["clock_offset"]) == (OLD_KEY.fingerprint, -SECOND)
    newest = fleet.store.read(lambda connection: queries.record(connection, ONE.agent_id, None))
    assert newest is not None
    assert newest.sample == 20


def test_a_late_sample_with_an_older_message_changes_no_state(fleet: Fleet) -> None:
    fleet.file(report(ONE, 20, NOON, tick=100))
    before = fleet.members(ONE.agent_id)
    fleet.file(late(10, 99, NOON - HOUR), at=NOON + 3 * SECOND)
    after = fleet.members(ONE.agent_id)
    assert {name for name in after if after[name] != before[name]} == {"window"}


def test_a_known_late_sample_is_a_duplicate(fleet: Fleet) -> None:
    fleet.file(report(ONE, 20, NOON))
    fleet.file(late(10, 21, NOON - HOUR))
    before = fleet.dump()
    assert fleet.file(late(10, 22, NOON - HOUR)).outcome == "duplicate"
    assert fleet.file(late(20, 23, NOON)).outcome == "duplicate"
    assert fleet.dump() == before


@given(st.permutations(range(1, 13)))
@settings(max_examples=examples(25))
def test_in_any_order_all_samples_are_stored_and_the_newest_counts(order: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, fleet_in(Path(folder)) as fleet:
        highest = 0
        for tick, sample in enumerate(order, 1):
            measured_at = NOON - (13 - sample) * SECOND
            named = replace(ONE, hostname=f"named-at-{sample}.example.net")
            assert fleet.file(report(named, sample, NOON, tick=tick, sampled_at=measured_at)).outcome == "accepted"
            is_late, highest = sample < highest, max(sample, highest)
            assert (marks(fleet)[sample] is not None) == is_late
            assert fleet.members(ONE.agent_id)["hostname"] == f"named-at-{highest}.example.net"
        assert list(marks(fleet)) == sorted(order)
        moments = [NOON if at is None else at for at in marks(fleet).values()]
        assert moments == sorted(moments)


# --- Spool counts


def spool_of(fleet: Fleet) -> tuple[object, ...]:
    row = fleet.members(ONE.agent_id)
    return row["waiting"], row["dropped"], row["dropped_at"], row["dropped_after"]


def test_spool_counts_are_those_of_the_latest_report(fleet: Fleet) -> None:
    fleet.file(report(ONE, 1, NOON))
    assert spool_of(fleet) == (None, None, None, None)
    fleet.file(with_spool(report(ONE, 2, NOON + SECOND), Spool(0, 0, 0)))
    assert spool_of(fleet) == (0, 0, None, None)
    fleet.file(with_spool(report(ONE, 3, NOON + HOUR), Spool(7, 700, 5)))
    assert spool_of(fleet) == (7, 5, NOON + HOUR, NOON + SECOND)
    fleet.file(with_spool(report(ONE, 4, NOON + HOUR + SECOND), Spool(2, 200, 5)))
    assert spool_of(fleet) == (2, 5, NOON + HOUR, NOON + SECOND)


def test_samples_dropped_before_the_first_report_count(fleet: Fleet) -> None:
    fleet.file(with_spool(report(ONE, 1, NOON), Spool(0, 0, 5)))
    assert spool_of(fleet) == (0, 5, NOON, None)


def test_a_report_without_spool_counts_keeps_the_dropped_count(fleet: Fleet) -> None:
    fleet.file(with_spool(report(ONE, 1, NOON), Spool(1, 9, 5)))
    fleet.file(report(ONE, 2, NOON + SECOND))
    assert spool_of(fleet) == (None, 5, NOON, None)
    fleet.file(with_spool(report(ONE, 3, NOON + MINUTE), Spool(1, 9, 5)))
    assert spool_of(fleet) == (1, 5, NOON, None)


@pytest.mark.parametrize(("dropped", "at"), [(3, NOON + HOUR), (0, NOON)])
def test_a_count_that_fell_was_restarted(fleet: Fleet, dropped: int, at: int) -> None:
    fleet.file(with_spool(report(ONE, 1, NOON), Spool(0, 0, 5)))
    fleet.file(with_spool(report(ONE, 2, NOON + HOUR), Spool(0, 0, dropped)))
    assert spool_of(fleet)[1:3] == (dropped, at)
