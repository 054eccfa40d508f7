"""The spans of a node's history for sequences of arrivals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_manager.records import Arrival
from kattila_manager.topology.history import Continuity, Span, SpanKind, spans
from support.fleet import DAY, HOUR, MINUTE, NOON, SECOND
from support.reports import node

A, B = node(1).agent_id, node(2).agent_id
INTERVAL = 30 * SECOND
PAUSE = 3 * INTERVAL


def at(sample: int) -> int:
    """Return when a sample was measured."""
    return NOON + sample * INTERVAL


def prompt(*samples: int, path: str | None = None) -> list[Arrival]:
    """Return samples that arrived when they were measured."""
    return [Arrival(sample, sample, at(sample), None, path) for sample in samples]


def late(*samples: int, came_at: int, path: str | None = None) -> list[Arrival]:
    return [Arrival(1000 + sample, sample, came_at, at(sample), path) for sample in samples]


def told(arrivals: Sequence[Arrival], *reboots: int, now: int | None = None) -> list[Span]:
    return list(spans(arrivals, Continuity(reboots, PAUSE), now))


def kinds(arrivals: Sequence[Arrival], *reboots: int, now: int | None = None) -> list[tuple[SpanKind, int]]:
    return [(span.kind, span.samples) for span in told(arrivals, *reboots, now=now)]


def test_no_arrivals_give_no_spans() -> None:
    assert told([], NOON, now=NOON) == []


def test_samples_in_order_are_one_span() -> None:
    assert told(prompt(*range(1, 101))) == [
        Span(SpanKind.REPORTED, at(1), at(100), samples=100, first_sample=1, last_sample=100)
    ]


def test_each_path_is_its_own_span() -> None:
    arrivals = [*prompt(1, 2), *prompt(3, 4, path=A), *prompt(5, path=f"{A},{B}"), *prompt(6)]
    assert [(span.relay_path, span.samples, span.from_at) for span in told(arrivals)] == [
        ((), 2, at(1)),
        ((A,), 2, at(3)),
        ((A, B), 1, at(5)),
        ((), 1, at(6)),
    ]


def test_late_samples_fill_the_time_of_their_measurement() -> None:
    arrivals = [*prompt(1, 2), *late(*range(3, 23), came_at=at(24)), *prompt(23, 24)]
    assert told(arrivals) == [
        Span(SpanKind.REPORTED, at(1), at(2), samples=2, first_sample=1, last_sample=2),
        Span(SpanKind.CUT_OFF, at(3), at(22), samples=20, late=20, first_sample=3, last_sample=22),
        Span(SpanKind.REPORTED, at(23), at(24), samples=2, first_sample=23, last_sample=24),
    ]


def test_the_path_of_late_samples_does_not_matter() -> None:
    arrivals = [*late(1, 2, came_at=at(24), path=A), *late(3, 4, came_at=at(25)), *prompt(5)]
    assert kinds(arrivals) == [(SpanKind.CUT_OFF, 4), (SpanKind.REPORTED, 1)]


def test_slightly_late_samples_are_not_a_cut_off() -> None:
    arrivals = [*prompt(1, 2), *late(3, came_at=at(4)), *prompt(4, 5), *late(6, came_at=at(6) + 1), *prompt(7)]
    assert told(arrivals) == [Span(SpanKind.REPORTED, at(1), at(7), samples=7, late=2, first_sample=1, last_sample=7)]


@pytest.mark.parametrize(("lateness", "kind"), [(PAUSE, SpanKind.REPORTED), (PAUSE + 1, SpanKind.CUT_OFF)])
def test_cut_off_starts_at_the_threshold_of_silence(lateness: int, kind: SpanKind) -> None:
    assert kinds([*prompt(1), *late(2, came_at=at(2) + lateness)])[-1][0] is kind


def test_absent_numbers_are_missing_samples() -> None:
    assert told([*prompt(1, 2), *prompt(13)]) == [
        Span(SpanKind.REPORTED, at(1), at(2), samples=2, first_sample=1, last_sample=2),
        Span(SpanKind.MISSING, at(2), at(13), samples=10, first_sample=3, last_sample=12),
        Span(SpanKind.REPORTED, at(13), at(13), samples=1, first_sample=13, last_sample=13),
    ]


def test_a_gap_in_late_samples_is_missing_too() -> None:
    arrivals = [*prompt(1), *late(2, 3, 6, came_at=at(20)), *prompt(7)]
    assert kinds(arrivals) == [
        (SpanKind.REPORTED, 1),
        (SpanKind.CUT_OFF, 2),
        (SpanKind.MISSING, 2),
        (SpanKind.CUT_OFF, 1),
        (SpanKind.REPORTED, 1),
    ]


def test_a_pause_without_missing_numbers_is_not_a_loss() -> None:
    stopped = [*prompt(1, 2), Arrival(3, 3, at(2) + HOUR, None, None)]
    assert told(stopped)[1] == Span(SpanKind.STOPPED, at(2), at(2) + HOUR)
    assert kinds(stopped)[1] == (SpanKind.STOPPED, 0)


def test_a_reboot_is_at_the_first_report_of_the_new_boot() -> None:
    assert told(prompt(1, 2, 3, 4), at(3)) == [
        Span(SpanKind.REPORTED, at(1), at(2), samples=2, first_sample=1, last_sample=2),
        Span(SpanKind.REBOOTED, at(3), at(3)),
        Span(SpanKind.REPORTED, at(3), at(4), samples=2, first_sample=3, last_sample=4),
    ]


def test_reboots_before_the_kept_reports_are_dropped() -> None:
    assert kinds(prompt(1, 2), at(1) - DAY, at(2) + 1) == [(SpanKind.REPORTED, 2), (SpanKind.REBOOTED, 0)]


def test_a_reboot_while_cut_off_is_at_its_end() -> None:
    arrivals = [*prompt(1), *late(*range(2, 20), came_at=at(21)), *prompt(20)]
    assert [kind for kind, _ in kinds(arrivals, at(20))] == [
        SpanKind.REPORTED,
        SpanKind.CUT_OFF,
        SpanKind.REBOOTED,
        SpanKind.REPORTED,
    ]


@pytest.mark.parametrize(("now", "is_silent"), [(at(2) + PAUSE, False), (at(2) + PAUSE + 1, True)])
def test_a_silence_until_now_is_a_span(now: int, is_silent: bool) -> None:
    last = told(prompt(1, 2), now=now)[-1]
    assert last == Span(SpanKind.SILENT, at(2), now) if is_silent else last.kind is SpanKind.REPORTED


_ARRIVALS = st.dictionaries(
    st.integers(1, 60),
    st.tuples(st.integers(0, 40), st.booleans(), st.sampled_from([None, A, f"{A},{B}"])),
    max_size=60,
)


@given(_ARRIVALS, st.lists(st.integers(0, 70), max_size=3), st.integers(0, 100))
def test_every_sample_is_in_one_span_and_time_moves_forward(
    drawn: dict[int, tuple[int, bool, str | None]], reboots: list[int], now: int
) -> None:
    arrivals = [
        Arrival(sample, sample, at(sample + delay), at(sample) if is_late else None, path)
        for sample, (delay, is_late, path) in sorted(drawn.items())
    ]
    found = told(arrivals, *sorted(at(reboot) for reboot in reboots), now=at(now))
    there = [span for span in found if span.kind in (SpanKind.REPORTED, SpanKind.CUT_OFF)]
    assert [sample for span in there for sample in range(span.first_sample, span.last_sample + 1)] == sorted(drawn)
    assert sum(span.samples for span in there) == len(drawn)
    assert sum(span.late for span in there) == sum(is_late for _, is_late, _ in drawn.values())
    if drawn:
        absent = max(drawn) - min(drawn) + 1 - len(drawn)
        assert sum(span.samples for span in found if span.kind is SpanKind.MISSING) == absent
    assert all(span.from_at <= span.to_at for span in found)


def test_a_month_has_few_spans() -> None:
    month = prompt(*range(1, 86_401))
    assert [span.samples for span in told(month, at(40_000), now=at(86_400) + MINUTE)] == [39_999, 0, 46_401]
