"""The replay rules: the window of ticks and nonces, and the limit of clock skew."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kattila_protocol.errors import ClockSkew
from kattila_protocol.freshness import MAX_SKEW_MS, WINDOW_SIZE, Freshness, Window, check_skew
from support.counts import examples

FRESH, DUPLICATE, REPLAY = Freshness.FRESH, Freshness.DUPLICATE, Freshness.REPLAY
NOW = 1_760_000_000_000


def window(*ticks: int) -> Window:
    """Return a window that accepted messages with these ticks; tick 7 has the nonce "n7"."""
    filled = Window()
    for tick in ticks:
        filled = filled.add(tick, f"n{tick}")
    return filled


CASES: list[tuple[str, Window, int, str, Freshness]] = [
    ("first message", Window(), 1, "n1", FRESH),
    ("first message with any tick", Window(), 10**15, "x", FRESH),
    ("next tick", window(1), 2, "n2", FRESH),
    ("tick far ahead", window(1), 10**15, "x", FRESH),
    ("the same message", window(1), 1, "n1", DUPLICATE),
    ("the same message, not the last", window(1, 2, 3), 1, "n1", DUPLICATE),
    ("used tick, new nonce", window(1), 1, "x", REPLAY),
    ("used tick, nonce of another", window(1, 2), 1, "n2", REPLAY),
    ("late tick, used nonce", window(1, 3), 2, "n3", REPLAY),
    ("late, but never seen", window(1, 3), 2, "n2", FRESH),
    ("late, before all seen", window(2, 3), 1, "n1", FRESH),
    ("last tick in the window", window(1, 120), 1, "n1", DUPLICATE),
    ("first tick behind the window", window(1, 121), 1, "n1", REPLAY),
    ("behind the window, never seen", window(500), 380, "x", REPLAY),
    ("at the end of the window, never seen", window(500), 381, "x", FRESH),
    ("tick 0 behind", window(1, 500), 0, "x", REPLAY),
    ("after 119 newer ones", window(*range(1, 121)), 1, "n1", DUPLICATE),
    ("after 120 newer ones", window(*range(1, 122)), 1, "n1", REPLAY),
    ("after 121 newer ones", window(*range(1, 123)), 1, "n1", REPLAY),
]


@pytest.mark.parametrize(
    ("seen", "tick", "nonce", "judged"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_freshness(seen: Window, tick: int, nonce: str, judged: Freshness) -> None:
    assert seen.judge(tick, nonce) is judged


def test_a_window_keeps_120_messages() -> None:
    assert len(window(*range(1, 500)).entries) == WINDOW_SIZE == 120


def test_a_late_message_is_sorted_in() -> None:
    assert window(5, 1, 3) == window(1, 3, 5)


def test_judge_does_not_change_the_window() -> None:
    seen = window(1, 2)
    assert seen.judge(3, "n3") is seen.judge(3, "n3") is FRESH


@pytest.mark.parametrize(("tick", "freshness"), [(0, REPLAY), (380, REPLAY), (381, FRESH), (499, FRESH), (501, FRESH)])
def test_a_tick_120_below_the_highest_is_a_replay(tick: int, freshness: Freshness) -> None:
    assert window(500).judge(tick, "unused") is freshness


@dataclass
class NaiveWindow:
    """A window that remembers all accepted ticks, and the nonces of the last 120 messages."""

    accepted: set[tuple[int, str]] = field(default_factory=set)

    def judge(self, tick: int, nonce: str) -> Freshness:
        highest = max((used for used, _ in self.accepted), default=0)
        if tick > highest or not self.accepted:
            return FRESH
        if highest - tick >= 120:
            return REPLAY
        if (tick, nonce) in self.accepted:
            return DUPLICATE
        used_nonces = {used for _, used in sorted(self.accepted)[-120:]}
        used_ticks = {used for used, _ in self.accepted}
        return REPLAY if tick in used_ticks or nonce in used_nonces else FRESH


class WindowAgainstNaive(RuleBasedStateMachine):
    """Compare the window with the naive one, for any messages in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window()
        self.naive = NaiveWindow()
        self.sent: list[tuple[int, str]] = []
        self.highest = 0

    def send(self, tick: int, nonce: str) -> None:
        judged = self.window.judge(tick, nonce)
        assert judged is self.naive.judge(tick, nonce)
        self.sent.append((tick, nonce))
        if judged is FRESH:
            assert (tick, nonce) not in self.naive.accepted
            self.window = self.window.add(tick, nonce)
            self.naive.accepted.add((tick, nonce))
            self.highest = max(self.highest, tick)

    @rule(ahead=st.integers(1, 300), nonce=st.integers(0, 400))
    def newer(self, ahead: int, nonce: int) -> None:
        self.send(self.highest + ahead, str(nonce))

    @rule(many=st.integers(1, 130))
    def many_newer(self, many: int) -> None:
        for _ in range(many):
            self.send(self.highest + 1, f"of {self.highest + 1}")

    @rule(back=st.integers(0, 130), nonce=st.integers(0, 400))
    def late(self, back: int, nonce: int) -> None:
        self.send(max(0, self.highest - back), str(nonce))

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        if self.sent:
            self.send(*data.draw(st.sampled_from(self.sent)))

    @rule(data=st.data(), shift=st.integers(-3, 3))
    def repeat_with_another_tick(self, data: st.DataObject, shift: int) -> None:
        if self.sent:
            tick, nonce = data.draw(st.sampled_from(self.sent))
            self.send(max(0, tick + shift), nonce)

    @invariant()
    def bounded_and_sorted(self) -> None:
        assert len(self.window.entries) <= WINDOW_SIZE
        assert list(self.window.entries) == sorted(self.window.entries)


TestWindowAgainstNaive = WindowAgainstNaive.TestCase
TestWindowAgainstNaive.settings = settings(max_examples=examples(100), stateful_step_count=40)


@pytest.mark.parametrize("offset", [0, 1, -1, 599_999, 600_000, -600_000])
def test_a_clock_skew_of_ten_minutes_is_accepted(offset: int) -> None:
    check_skew(NOW + offset, NOW)


@pytest.mark.parametrize(
    ("offset", "text"),
    [
        (600_001, "600.0 s ahead of"),
        (-600_001, "600.0 s behind"),
        (3_600_000, "3600.0 s ahead of the receiver's; at most 600 s are allowed"),
        (-NOW, "1760000000.0 s behind"),
    ],
)
def test_a_larger_clock_skew_is_refused(offset: int, text: str) -> None:
    assert MAX_SKEW_MS == 600_000
    with pytest.raises(ClockSkew, match=text):
        check_skew(NOW + offset, NOW)
