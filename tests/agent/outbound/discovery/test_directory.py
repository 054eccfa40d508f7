"""When siblings are queried, how long an answer counts, and in which order they relay."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kattila_agent.outbound.discovery import Directory
from kattila_agent.outbound.discovery.directory import (
    ENOUGH_PATHS,
    LEASE_SECONDS,
    MAX_AGE_SECONDS,
    REFRESH_SECONDS,
    jittered,
)
from kattila_protocol.peer import PeerAnswer
from support.sibling_directory import INTERVAL, OWN, A, B, C, answer, directory_of, name_of, queries_until


def ids(directory: Directory, now: float = 1.0) -> list[str]:
    return [relay.agent_id for relay in directory.relays(OWN, now)]


def test_each_address_is_queried_once_in_order_and_never_twice_at_a_time() -> None:
    directory = directory_of("a", "b", "c")
    assert [directory.due(0.0, hurried=False) for _ in range(4)] == ["a", "b", "c", None]
    assert directory.due(LEASE_SECONDS - 1, hurried=True) is None
    assert directory.due(LEASE_SECONDS, hurried=False) == "a"


def test_an_address_that_answered_is_queried_again_in_ten_minutes() -> None:
    moments = queries_until(directory_of("a"), 1900, lambda *_: answer(A))
    assert moments == [0, REFRESH_SECONDS, 2 * REFRESH_SECONDS, 3 * REFRESH_SECONDS]


@pytest.mark.parametrize(("hurried", "first", "last"), [(False, 60, 3600), (True, 30, 600)])
def test_a_silent_address_is_queried_less_and_less_often(hurried: bool, first: int, last: int) -> None:
    moments = queries_until(directory_of("a"), 30_000, lambda *_: None, hurried=hurried)
    pauses = [later - before for before, later in pairwise(moments)]
    assert pauses == [min(first * 2**times, last) for times in range(len(pauses))]
    assert pauses[-1] == last


def test_a_sibling_without_a_path_is_queried_less_and_less_often() -> None:
    moments = queries_until(directory_of("a"), 4_000, lambda *_: answer(A, None), hurried=True)
    assert moments == [0, 30, 90, 210, 450, 930, 1530, 2130, 2730, 3330, 3930]


def test_back_off_starts_again_after_an_answer() -> None:
    directory = directory_of("a")
    queries_until(directory, 500, lambda *_: None)
    assert queries_until(directory, 2500, lambda _, now: answer(A) if now < 1000 else None, start=500) == [
        900,
        1500,
        1560,
        1680,
        1920,
        2400,
    ]


def test_jitter_only_ever_shortens_a_pause() -> None:
    assert jittered(600, 0.0) == 600
    assert jittered(600, 1.0) == pytest.approx(480)
    directory = directory_of("a")
    directory.due(0.0, hurried=False)
    directory.answered("a", answer(A), 0.01, 0.0, 1.0)
    assert directory.due(479, hurried=False) is None
    assert directory.due(481, hurried=False) == "a"


def test_in_a_hurry_siblings_with_a_path_come_first_then_other_siblings() -> None:
    directory = directory_of("silent", "wayless", "way", "new")
    for _ in range(3):
        directory.due(0.0, hurried=False)
    directory.failed("silent", 0.0, 0.0)
    directory.answered("wayless", answer(A, None), 0.01, 0.0, 0.0)
    directory.answered("way", answer(B, 1), 0.01, 0.0, 0.0)
    assert [directory.due(INTERVAL, hurried=True) for _ in range(5)] == ["way", "wayless", "new", "silent", None]


def test_in_a_hurry_a_few_fresh_paths_are_enough() -> None:
    addresses = [f"192.0.2.{number}" for number in range(1, 100)]
    directory = directory_of(*addresses)
    said = {address: answer(name_of(number)) for number, address in enumerate(addresses)}
    reply = lambda address, _: said[address]  # noqa: E731 - three places use it
    assert len(queries_until(directory, 1, reply)) == 99
    assert len(queries_until(directory, 61, reply, start=60, hurried=True)) == ENOUGH_PATHS
    # While a way works, no other is looked for.
    directory.passed_on(said[addresses[5]].agent_id, 95.0)
    assert queries_until(directory, 150, reply, start=95, hurried=True) == []
    directory.refused(said[addresses[5]].agent_id, 150.0, 0.0, has_no_path=True)
    assert len(queries_until(directory, 151, reply, start=150, hurried=True)) == ENOUGH_PATHS


def test_an_outage_starts_with_fresh_queries_if_the_manager_was_reachable_before() -> None:
    directory = directory_of("a")
    queries_until(directory, 1000, lambda *_: answer(A, None), hurried=True)
    assert queries_until(directory, 1010, lambda *_: answer(A, None), start=1000) == []
    # After ten seconds it is still the same outage, after a minute another one.
    assert queries_until(directory, 1100, lambda *_: answer(A, None), start=1010, hurried=True) == []
    assert queries_until(directory, 1160, lambda *_: answer(A, None), start=1100) == []
    assert queries_until(directory, 1170, lambda *_: answer(A, None), start=1160, hurried=True) == [1160]


def test_answers_before_the_outage_delay_no_query() -> None:
    directory = directory_of("a")
    queries_until(directory, 6001, lambda *_: answer(A, None))
    assert queries_until(directory, 6100, lambda *_: answer(A, None), start=6001, hurried=True) == [6030, 6090]


def test_a_short_interval_makes_the_first_pauses_short() -> None:
    directory = Directory(2.0)
    directory.update(("a",))
    assert queries_until(directory, 32, lambda *_: answer(A, None), hurried=True) == [0, 2, 6, 14, 30]


def test_the_nearest_is_the_first() -> None:
    directory = directory_of("a", "b", "c")
    directory.answered("a", answer(A, 1), 0.01, 0.0, 0.0)
    directory.answered("b", answer(B, 0), 0.09, 0.0, 0.0)
    directory.answered("c", answer(C, 0), 0.05, 0.0, 0.0)
    assert ids(directory) == [C, B, A]
    directory.passed_on(B, 0.5)
    assert ids(directory) == [B, C, A]
    directory.passed_on(A, 0.6)
    assert ids(directory) == [B, C, A]
    directory.failed("b", 0.7, 0.0)
    assert ids(directory) == [C, A, B]
    [first, *_] = directory.relays(OWN, 1.0)
    assert (first.address, first.agent_id, first.hostname, first.distance) == ("c", C, "name", 0)


def test_a_working_relay_stays_one_after_a_missed_query() -> None:
    directory = directory_of("a", "b")
    directory.answered("a", answer(A), 0.01, 0.0, 0.0)
    directory.answered("b", answer(B), 0.05, 0.0, 0.0)
    directory.failed("a", 1.0, 0.0)
    assert ids(directory) == [B, A]
    directory.passed_on(A, 2.0)
    assert ids(directory) == [A, B]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (answer(A, 0), [A]),
        (answer(A, 2), [A]),
        (answer(A, 3), []),
        (answer(A, 10**9), []),
        (answer(A, None), []),
        (answer(A, 1, next_hop=OWN), []),
        (answer(A, 1, next_hop=B), [A]),
        (answer(OWN, 0), []),
    ],
)
def test_which_siblings_can_relay(said: PeerAnswer, expected: list[str]) -> None:
    directory = directory_of("a")
    directory.answered("a", said, 0.01, 0.0, 0.0)
    assert ids(directory) == expected


def test_answers_expire_unless_confirmed() -> None:
    directory = directory_of("a")
    directory.answered("a", answer(A), 0.01, 0.0, 0.0)
    assert ids(directory, MAX_AGE_SECONDS) == [A]
    assert ids(directory, MAX_AGE_SECONDS + 1) == []
    directory.passed_on(A, 600.0)
    assert ids(directory, MAX_AGE_SECONDS + 600) == [A]


def test_a_failed_relay_pauses_longer_and_longer() -> None:
    directory = directory_of("a")
    now, rests = 0.0, []
    for _ in range(8):
        directory.answered("a", answer(A), 0.01, now, 0.0)
        directory.refused(A, now, 0.0, has_no_path=False)
        began = now
        while not ids(directory, now):
            now += 1
            directory.answered("a", answer(A), 0.01, now, 0.0)
        rests.append(now - began)
    assert rests == [30, 60, 120, 240, 480, 600, 600, 600]
    directory.passed_on(A, now)
    directory.refused(A, now, 0.0, has_no_path=False)
    assert (ids(directory, now + 29), ids(directory, now + 30)) == ([], [A])


def test_a_refusal_of_long_ago_does_not_count() -> None:
    directory = directory_of("a")
    for now in (0.0, 10_000.0):
        directory.answered("a", answer(A), 0.01, now, 0.0)
        directory.refused(A, now, 0.0, has_no_path=False)
        assert (ids(directory, now + 29), ids(directory, now + 30)) == ([], [A])


def test_a_sibling_without_a_path_is_not_a_relay_until_it_reports_one() -> None:
    directory = directory_of("a")
    directory.answered("a", answer(A), 0.01, 0.0, 0.0)
    directory.refused(A, 0.0, 0.0, has_no_path=True)
    assert ids(directory, 100) == []
    assert directory.due(29, hurried=True) is None
    assert directory.due(30, hurried=True) == "a"
    directory.answered("a", answer(A, 1, B), 0.01, 31.0, 0.0)
    assert ids(directory, 31) == [A]


def test_two_addresses_of_one_agent_are_one_relay_with_a_spare_address() -> None:
    directory = directory_of("192.0.2.1", "2001:db8::1")
    directory.answered("192.0.2.1", answer(A), 0.05, 0.0, 0.0)
    directory.answered("2001:db8::1", answer(A), 0.01, 0.0, 0.0)
    assert [relay.address for relay in directory.relays(OWN, 1.0)] == ["2001:db8::1"]
    directory.failed("2001:db8::1", 1.0, 0.0)
    assert [relay.address for relay in directory.relays(OWN, 1.0)] == ["192.0.2.1"]
    directory.answered("2001:db8::1", answer(A), 0.01, 2.0, 0.0)
    directory.refused(A, 2.0, 0.0, has_no_path=False)
    assert [relay.address for relay in directory.relays(OWN, 40.0)] == ["192.0.2.1"]


def test_in_a_hurry_one_address_counts_for_its_agent() -> None:
    directory = directory_of("192.0.2.1", "2001:db8::1")
    queries_until(directory, 1, lambda *_: answer(A, None))
    assert queries_until(directory, 31, lambda *_: answer(A, None), start=1, hurried=True) == [30]


def test_addresses_that_are_no_longer_candidates_are_forgotten() -> None:
    directory = directory_of("a", "b")
    directory.answered("a", answer(A), 0.01, 0.0, 0.0)
    directory.answered("b", answer(B), 0.01, 0.0, 0.0)
    directory.update(("b", "c"))
    assert ids(directory) == [B]
    assert [directory.due(1.0, hurried=False) for _ in range(2)] == ["c", None]
    # An answer that was under way.
    directory.answered("a", answer(A), 0.01, 1.0, 0.0)
    directory.failed("a", 1.0, 0.0)
    directory.passed_on(A, 1.0)
    directory.refused(A, 1.0, 0.0, has_no_path=False)
    assert ids(directory) == [B]


def test_addresses_from_an_unread_source_are_kept() -> None:
    directory = directory_of("a", "b")
    directory.answered("a", answer(A), 0.01, 0.0, 0.0)
    directory.update(("c",), are_all=False)
    assert ids(directory) == [A]
    assert [directory.due(REFRESH_SECONDS, hurried=False) for _ in range(3)] == ["c", "a", None]
    directory.update(())
    assert ids(directory) == []


def test_an_address_may_change_hands() -> None:
    directory = directory_of("a")
    for agent_id in (A, B, C, A):
        directory.answered("a", answer(agent_id), 0.01, 0.0, 0.0)
        assert ids(directory) == [agent_id]
