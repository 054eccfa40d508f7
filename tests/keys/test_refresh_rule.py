"""When the next DNS query is due, as pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_keys.refresh import due_at, is_due, may_retry
from kattila_keys.ring_file import StoredRing
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.signing import Key

NOW = 1_700_000_000_000
MINUTE = 60_000


KEY = Key.from_psk(b"example psk, protects nothing")


def named(*, minutes: int) -> StoredRing:
    """Return a ring whose key DNS has named for that many minutes."""
    return StoredRing(Ring((RingEntry(KEY, NOW - minutes * MINUTE, last_seen_at=NOW),)), NOW, NOW)


def stored(asked_at: int | None, answered_at: int | None) -> StoredRing:
    return StoredRing(Ring(), asked_at, answered_at)


@pytest.mark.parametrize(
    ("state", "jitter", "due"),
    [
        (stored(None, None), 0.0, 0),
        (stored(None, None), 1.0, 0),
        (stored(NOW, NOW), 0.0, NOW + 54 * MINUTE),
        (stored(NOW, NOW), 0.5, NOW + 60 * MINUTE),
        (stored(NOW, NOW), 1.0, NOW + 66 * MINUTE),
        (named(minutes=1), 0.5, NOW + 60 * MINUTE),
        # A second answer is to prove a key.
        (named(minutes=0), 0.0, NOW + MINUTE),
        (named(minutes=0), 1.0, NOW + 2 * MINUTE),
        (stored(NOW, None), 0.0, NOW + MINUTE),
        (stored(NOW, NOW - 90 * MINUTE), 0.5, NOW + MINUTE * 3 // 2),
        (stored(NOW, NOW - 90 * MINUTE), 1.0, NOW + 2 * MINUTE),
    ],
)
def test_a_query_is_due_hourly_after_an_answer_and_within_two_minutes_after_a_failure(
    state: StoredRing, jitter: float, due: int
) -> None:
    assert due_at(state, jitter) == due
    assert is_due(state, jitter, due)
    assert due == 0 or not is_due(state, jitter, due - 1)


@pytest.mark.parametrize(
    ("asked_at", "now", "allowed"),
    [
        (None, NOW, True),
        (NOW, NOW, False),
        (NOW, NOW + MINUTE - 1, False),
        (NOW, NOW + MINUTE, True),
        # Another process read the clock a moment later.
        (NOW + 5, NOW, False),
        # The clock was set back.
        (NOW + MINUTE, NOW, True),
    ],
)
def test_queries_are_a_minute_apart(asked_at: int | None, now: int, allowed: bool) -> None:
    assert may_retry(asked_at, now) is allowed


def test_setting_the_clock_back_does_not_stop_the_queries() -> None:
    assert is_due(stored(NOW, NOW), 0.5, NOW - 24 * 60 * MINUTE)
    assert not is_due(stored(NOW, NOW), 0.5, NOW - 5)


@given(asked_at=st.integers(0, 2**53), jitter=st.floats(0, 1), answered=st.booleans())
def test_scheduled_queries_are_a_minute_apart(asked_at: int, jitter: float, answered: bool) -> None:
    due = due_at(stored(asked_at, asked_at if answered else None), jitter)
    assert may_retry(asked_at, due)
