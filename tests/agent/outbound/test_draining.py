"""Waiting samples are sent in order, spread over the interval; a refused one delays no other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from kattila_agent.outbound.delivery import Answered, Outcome, Unreachable
from kattila_agent.outbound.draining import LEAST_PER_INTERVAL, Draining, per_interval
from kattila_agent.outbound.journal import Journal
from kattila_agent.runtime import Runtime
from kattila_agent.spool import Spool
from kattila_agent.spool.sample import Moment, Sample
from kattila_protocol.errors import ClockSkew, IdentityConflict, Malformed, Overloaded, Replay, Superseded
from kattila_protocol.verdict import ACCEPTED, DUPLICATE, Verdict
from kattila_settings.failures import StateLog
from protocol.samples import AGENT, BOOT, NONCE, NOW

INTERVAL = 30.0


def answered(outcome: str) -> Outcome:
    return Answered(Verdict(outcome, AGENT, NONCE, NOW, 0))


@dataclass
class Scene:
    """A spool with some samples, the outcome of each by its number, and when each was sent."""

    folder: Path
    waiting: int
    becomes: Callable[[int], Outcome] = lambda number: answered(ACCEPTED)
    sent: list[tuple[int, float]] = field(default_factory=list)
    moment: float = 100.0

    def __post_init__(self) -> None:
        self.spool = Spool(self.folder / "spool", 64 * 1024 * 1024, 86_400)
        for number in range(1, self.waiting + 1):
            self.spool.put(Sample(number, NOW, BOOT, 1000, b"{}"), Moment(NOW, BOOT, 1000))
        runtime = Runtime(
            now=lambda: NOW,
            monotonic=lambda: self.moment,
            since_boot_ms=lambda: 1000,
            nonce=lambda: NONCE,
            new_id=lambda: AGENT,
            share=lambda: 0.5,
        )
        self.draining = Draining(
            self.spool, self._send, runtime, INTERVAL, Journal(StateLog(logging.getLogger("kattila.agent")))
        )

    def _send(self, sample: Sample) -> Outcome:
        self.sent.append((sample.number, self.moment))
        return self.becomes(sample.number)

    def drain_one_interval(self) -> list[int]:
        """Begin, as after a report that arrived, and return what was sent before the next one is due."""
        before, end = len(self.sent), self.moment + INTERVAL
        self.draining.begin()
        while self.draining.due_at is not None and self.draining.due_at < end:
            self.moment = self.draining.due_at
            self.draining.step()
        self.moment = end
        return [number for number, _ in self.sent[before:]]


def test_a_few_go_within_one_interval_in_their_order(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 7)
    assert scene.drain_one_interval() == [1, 2, 3, 4, 5, 6, 7]
    assert scene.spool.numbers() == ()


def test_they_are_spread_over_the_interval(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 20)
    scene.drain_one_interval()
    moments = [moment for _, moment in scene.sent]
    assert [round(later - sooner, 6) for sooner, later in pairwise(moments)] == [3.0] * 8


def test_a_backlog_of_a_day_is_gone_within_minutes() -> None:
    waiting, intervals = 2880, 0
    while waiting > 0:
        waiting, intervals = waiting - per_interval(waiting), intervals + 1
    assert intervals * INTERVAL < 15 * 60


def test_the_backlog_of_twenty_intervals_is_gone_within_ten(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 20)
    for _ in range(3):
        scene.drain_one_interval()
    assert scene.spool.numbers() == ()


def test_a_duplicate_has_arrived(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 2, lambda number: answered(DUPLICATE))
    scene.drain_one_interval()
    assert scene.spool.waiting().dropped == 0
    assert scene.spool.numbers() == ()


def test_a_sample_that_can_never_arrive_is_dropped_and_counted(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 3, lambda number: answered(Malformed.kind if number == 2 else ACCEPTED))
    scene.drain_one_interval()
    assert scene.spool.numbers() == ()
    assert scene.spool.waiting().dropped == 1


@pytest.mark.parametrize("outcome", [Superseded.kind, "a kind of the future"])
def test_a_refused_sample_is_tried_again_after_the_others(tmp_path: Path, outcome: str) -> None:
    scene = Scene(tmp_path, 3, lambda number: answered(outcome if number == 1 else ACCEPTED))
    assert scene.drain_one_interval() == [1, 2, 3]
    assert scene.spool.numbers() == (1,)
    assert scene.drain_one_interval() == [1]


@pytest.mark.parametrize(
    "outcome",
    [
        Unreachable("gone"),
        *map(answered, (ClockSkew.kind, Overloaded.kind, IdentityConflict.kind, Replay.kind)),
    ],
)
def test_a_refusal_that_holds_for_all_pauses_draining(tmp_path: Path, outcome: Outcome) -> None:
    scene = Scene(tmp_path, 5, lambda number: outcome)
    assert scene.drain_one_interval() == [1]
    assert scene.spool.numbers() == (1, 2, 3, 4, 5)


def test_an_unanswered_sample_delays_no_other(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 20, lambda number: Unreachable("413") if number == 1 else answered(ACCEPTED))
    for _ in range(4):
        scene.drain_one_interval()
    assert scene.spool.numbers() == (1,)
    assert scene.drain_one_interval() == [1]


def test_many_refused_samples_delay_no_other(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 30, lambda number: answered(Superseded.kind if number <= 15 else ACCEPTED))
    for _ in range(4):
        scene.drain_one_interval()
    assert scene.spool.numbers() == tuple(range(1, 16))


def test_nothing_is_sent_while_the_newest_report_does_not_arrive(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 5)
    assert scene.draining.due_at is None
    scene.draining.begin()
    scene.draining.stop()
    assert scene.draining.due_at is None


def test_a_sample_that_is_gone_delays_no_other(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 3)
    for path in (tmp_path / "spool").glob("*2"):
        path.unlink()
    assert scene.drain_one_interval() == [1, 3]


def test_an_unreadable_sample_delays_no_other(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 3)
    for path in (tmp_path / "spool").glob("*1"):
        path.unlink()
        path.mkdir()
    assert scene.drain_one_interval() == [2, 3]
    assert scene.spool.numbers() == (1,)


def test_a_backlog_of_an_earlier_run_is_logged_once_and_its_end_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        scene = Scene(tmp_path, LEAST_PER_INTERVAL + 2)
        for _ in range(3):
            scene.drain_one_interval()
        scene.draining.begin()
    assert caplog.messages == [
        "12 samples of an earlier run wait on disk and will be sent",
        "no sample waits on disk any more",
    ]


@pytest.mark.parametrize("error", [KeyError("nonce"), OSError("boot_id"), RecursionError(), MemoryError()])
def test_a_sample_whose_sending_raises_delays_no_other(tmp_path: Path, error: Exception) -> None:
    def becomes(number: int) -> Outcome:
        if number == 1:
            raise error
        return answered(ACCEPTED)

    scene = Scene(tmp_path, 3, becomes)
    scene.draining.begin()
    with pytest.raises(type(error)):
        scene.draining.step()
    # As the loop does after an error.
    scene.draining.stop()
    assert scene.drain_one_interval() == [2, 3]
    assert scene.spool.numbers() == (1,)
