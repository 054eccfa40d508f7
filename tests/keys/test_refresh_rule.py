"""When DNS is asked: the pure part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_keys.refresh import due_at, is_due, may_ask_again
from kattila_keys.ring_file import Kept
from kattila_protocol.ring import Ring

NOW = 1_700_000_000_000
MINUTE = 60_000


def kept(asked_at: int | None, answered_at: int | None) -> Kept:
    return Kept(Ring(), asked_at, answered_at)


@pytest.mark.parametrize(
    ("state", "jitter", "due"),
    [
        (kept(None, None), 0.0, 0),
        (kept(None, None), 1.0, 0),
        (kept(NOW, NOW), 0.0, NOW + 54 * MINUTE),
        (kept(NOW, NOW), 0.5, NOW + 60 * MINUTE),
        (kept(NOW, NOW), 1.0, NOW + 66 * MINUTE),
        (kept(NOW, None), 0.0, NOW + MINUTE),
        (kept(NOW, NOW - 90 * MINUTE), 0.5, NOW + MINUTE * 3 // 2),
        (kept(NOW, NOW - 90 * MINUTE), 1.0, NOW + 2 * MINUTE),
    ],
)
def test_due_hourly_after_an_answer_and_soon_after_a_failure(state: Kept, jitter: float, due: int) -> None:
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
        # The clock went back.
        (NOW + MINUTE, NOW, True),
    ],
)
def test_asked_again_at_most_once_a_minute(asked_at: int | None, now: int, allowed: bool) -> None:
    assert may_ask_again(asked_at, now) is allowed


def test_clock_that_went_back_does_not_stop_the_questions() -> None:
    assert is_due(kept(NOW, NOW), 0.5, NOW - 24 * 60 * MINUTE)
    assert not is_due(kept(NOW, NOW), 0.5, NOW - 5)


@given(asked_at=st.integers(0, 2**53), jitter=st.floats(0, 1), answered=st.booleans())
def test_hourly_question_never_breaks_the_minute(asked_at: int, jitter: float, answered: bool) -> None:
    due = due_at(kept(asked_at, asked_at if answered else None), jitter)
    assert may_ask_again(asked_at, due)
