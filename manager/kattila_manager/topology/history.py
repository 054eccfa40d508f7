"""Derives the history of one node from how its reports arrived, as spans of time.

Spans follow the sample numbers, each sample at the time of its measurement. So late samples fill the time in which
nothing could be delivered, and a missing number is a sample that was lost.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from kattila_manager.records import Arrival


class SpanKind(StrEnum):
    """The kinds of spans.

    Reports arrived as they were measured; samples arrived late, so the node was cut off but alive; samples are
    missing; nothing was measured, since no number is missing; the machine rebooted; nothing has arrived since.
    """

    REPORTED = "reported"
    CUT_OFF = "cut_off"
    MISSING = "missing"
    STOPPED = "stopped"
    REBOOTED = "rebooted"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time, from one time to another (ms UTC, manager's clock).

    `samples` counts the samples from `first_sample` to `last_sample`, which arrived or are missing; all three are 0 if
    there are none. `late` of them arrived late. `relay_path` is the path of the reports, empty for direct.
    """

    kind: SpanKind
    from_at: int
    to_at: int
    samples: int = 0
    late: int = 0
    first_sample: int = 0
    last_sample: int = 0
    relay_path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Continuity:
    """What decides whether a state lasted between two times: reboots, ascending, and how long a pause may be.

    `pause_ms` is also how late a sample may be before its node counts as cut off.
    """

    reboots: Sequence[int]
    pause_ms: int

    def lasted(self, before: int, after: int) -> bool:
        """Return whether the state was continuous between two times."""
        is_rebooted = bisect_right(self.reboots, before) < bisect_right(self.reboots, after)
        return after - before <= self.pause_ms and not is_rebooted


def spans(arrivals: Iterable[Arrival], continuity: Continuity, now: int | None = None) -> tuple[Span, ...]:
    """Return the spans from the first report to the last, or to `now` if given.

    `arrivals` are those of one agent, ordered by sample.
    """
    reported = _joined((_span(run, continuity) for run in _runs(arrivals, continuity)), continuity)
    return tuple(_with_reboots(_with_gaps(reported, continuity, now), continuity.reboots))


def _runs(arrivals: Iterable[Arrival], continuity: Continuity) -> Iterator[list[Arrival]]:
    """Split where a sample is missing, lateness starts or ends, the path changes, or a pause is too long."""
    run: list[Arrival] = []
    for one in arrivals:
        if run and not _continues(run[-1], one, continuity):
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def _continues(one: Arrival, other: Arrival, continuity: Continuity) -> bool:
    if other.sample != one.sample + 1 or (one.sampled_at is None) != (other.sampled_at is None):
        return False
    # Late samples arrive together, so their path says nothing about the time of their measurement.
    is_same_path = one.relay_path == other.relay_path or one.sampled_at is not None
    return is_same_path and continuity.lasted(one.measured_at, other.measured_at)


def _span(run: Sequence[Arrival], continuity: Continuity) -> Span:
    first, last, is_late = run[0], run[-1], run[0].sampled_at is not None
    is_cut_off = any(one.received_at - one.measured_at > continuity.pause_ms for one in run)
    return Span(
        SpanKind.CUT_OFF if is_cut_off else SpanKind.REPORTED,
        first.measured_at,
        max(first.measured_at, last.measured_at),
        samples=len(run),
        late=len(run) if is_late else 0,
        first_sample=first.sample,
        last_sample=last.sample,
        relay_path=() if is_cut_off or not first.relay_path else tuple(first.relay_path.split(",")),
    )


def _joined(parts: Iterable[Span], continuity: Continuity) -> Iterator[Span]:
    """Join spans around a few samples that arrived slightly late."""
    joined: Span | None = None
    for part in parts:
        if joined is not None and _are_one(joined, part, continuity):
            joined = _sum(joined, part)
            continue
        if joined is not None:
            yield joined
        joined = part
    if joined is not None:
        yield joined


def _are_one(one: Span, other: Span, continuity: Continuity) -> bool:
    is_reported = one.kind is other.kind is SpanKind.REPORTED and one.relay_path == other.relay_path
    return is_reported and other.first_sample == one.last_sample + 1 and continuity.lasted(one.to_at, other.from_at)


def _sum(one: Span, other: Span) -> Span:
    samples, late = one.samples + other.samples, one.late + other.late
    return replace(one, to_at=max(one.to_at, other.to_at), samples=samples, late=late, last_sample=other.last_sample)


def _with_gaps(spans: Iterable[Span], continuity: Continuity, now: int | None) -> Iterator[Span]:
    before: Span | None = None
    for span in spans:
        if before is not None:
            yield from _gap(before, span, continuity)
        yield span
        before = span
    if before is not None and now is not None and now - before.to_at > continuity.pause_ms:
        yield Span(SpanKind.SILENT, before.to_at, now)


def _gap(one: Span, other: Span, continuity: Continuity) -> Iterator[Span]:
    first, last = one.last_sample + 1, other.first_sample - 1
    if first <= last:
        until = max(one.to_at, other.from_at)
        yield Span(SpanKind.MISSING, one.to_at, until, last - first + 1, first_sample=first, last_sample=last)
    elif other.from_at - one.to_at > continuity.pause_ms:
        yield Span(SpanKind.STOPPED, one.to_at, other.from_at)


def _with_reboots(spans: Iterable[Span], reboots: Sequence[int]) -> Iterator[Span]:
    """Insert each reboot before the first span that starts at or after it; drop reboots before the first span."""
    due, shown = deque(reboots), False
    for span in spans:
        while due and due[0] <= span.from_at:
            at = due.popleft()
            if shown or at == span.from_at:
                yield Span(SpanKind.REBOOTED, at, at)
        yield span
        shown = True
    yield from (Span(SpanKind.REBOOTED, at, at) for at in due if shown)
