"""The limits on new agents: per minute, per source, and in all, whatever the clock does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kattila_manager.store.ingest.admission import MINUTE_MS, AdmissionLimits, admit, source_group
from kattila_manager.store.store import Store
from kattila_protocol.errors import TooManyAgents
from support.fleet import NOON, Fleet
from support.reports import node, report
from support.store import new_database

LIMITS = AdmissionLimits(per_minute=6, per_source=3, agents=1000)
ONE, OTHER = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(new_database(tmp_path))) as opened:
        yield opened


def taken(store: Store, source: str, now: int, tries: int = 20) -> int:
    """Return how many of these agents are taken."""

    def is_taken() -> bool:
        try:
            store.write(lambda connection: admit(connection, LIMITS, source, now))
        except TooManyAgents:
            return False
        return True

    return sum(is_taken() for _ in range(tries))


def test_a_source_has_its_share_and_all_together_have_the_rest(store: Store) -> None:
    assert taken(store, ONE, NOON) == 3
    assert taken(store, OTHER, NOON) == 3
    assert taken(store, "192.0.2.3", NOON) == 0


def test_an_allowance_comes_back_evenly(store: Store) -> None:
    assert taken(store, ONE, NOON) == 3
    assert taken(store, ONE, NOON + MINUTE_MS // 3 - 1) == 0
    assert taken(store, ONE, NOON + MINUTE_MS // 3) == 1
    assert taken(store, ONE, NOON + 3 * MINUTE_MS) == 3


def test_a_clock_that_goes_back_locks_nobody_out_for_longer_than_a_minute(store: Store) -> None:
    assert taken(store, ONE, NOON + 1_000_000_000) == 3
    assert taken(store, ONE, NOON) == 0
    assert taken(store, ONE, NOON + MINUTE_MS) == 0
    assert taken(store, ONE, NOON + 1_000_000_000 + MINUTE_MS) == 3


def test_a_refusal_counts_nothing(store: Store) -> None:
    assert taken(store, ONE, NOON, tries=100) == 3
    assert taken(store, ONE, NOON + MINUTE_MS // 3) == 1
    assert taken(store, OTHER, NOON + MINUTE_MS // 3) == 3


def test_sources_of_the_past_leave_no_rows(tmp_path: Path) -> None:
    path = new_database(tmp_path)
    with closing(Store(path)) as store:
        for number in range(50):
            assert taken(store, f"198.51.100.{number}", NOON + number * MINUTE_MS, tries=1) == 1
        with store.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM admissions").scalar() == 2


def test_forgotten_agents_make_room(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    for number in range(3):
        fleet.file(report(node(number), 1, NOON))
    limits = AdmissionLimits(600, 600, agents=3)
    with closing(fleet.store) as store:
        with pytest.raises(TooManyAgents, match="MAX_AGENTS"):
            store.write(lambda connection: admit(connection, limits, ONE, NOON))
        fleet.change("INSERT INTO forgotten SELECT ref, ?, highest_tick, latest_report_id FROM agents LIMIT 1", NOON)
        store.write(lambda connection: admit(connection, limits, ONE, NOON))


@pytest.mark.parametrize(
    ("source", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", "unknown"),
        ("a name", "unknown"),
    ],
)
def test_a_source_is_an_address_or_an_ipv6_network(source: str, group: str) -> None:
    assert source_group(source) == group
