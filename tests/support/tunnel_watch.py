"""Watches a simulated tunnel as the publisher would: both ends report, and every report is followed by a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from kattila_manager.topology.facts import Reading
from kattila_manager.topology.presence import MISSED_REPORTS
from kattila_manager.topology.wireguard.ends import End, Standing, View
from kattila_manager.topology.wireguard.evidence import Evidence, fold
from kattila_manager.topology.wireguard.states import TunnelState, Verdict, alarm_kind
from kattila_manager.topology.wireguard.verdicts import judge
from kattila_simulate.tunnel import Tunnel
from kattila_simulate.wireguard import STARTED_AT

SECOND = 1000
# A report is sent up to this much earlier or later than its interval says.
_JITTER_MS = 2 * SECOND
_DELIVERY_MS = 300


class Seen(NamedTuple):
    """A verdict after a report: when (ms since the start), and whether an alarm is open then."""

    at: int
    verdict: Verdict
    is_alarmed: bool


class TunnelWatch:
    """The evidence of both ends, and the alarm of the tunnel.

    An alarm opens if the verdict is a failure in two successive samples of one side, or certain, and closes when the
    tunnel is up. A failure that the silence of an end explains opens none.
    """

    def __init__(self, tunnel: Tunnel, random: Random, intervals: tuple[int, int] = (30 * SECOND, 30 * SECOND)) -> None:
        """Watch a tunnel whose ends report in these intervals (ms)."""
        self.tunnel = tunnel
        self.is_alarmed = False
        self.is_silent = [False, False]
        self.verdicts = 0
        self._random = random
        self.intervals = intervals
        self._next = [random.randrange(interval) for interval in intervals]
        self._evidence: list[Evidence | None] = [None, None]
        self._failures = [0, 0]

    def run(self, until: int) -> Iterator[Seen]:
        """Yield the verdicts until a time (ms since the start)."""
        while min(self._next) <= until:
            side = int(self._next[1] < self._next[0])
            at = self._next[side]
            jitter = self._random.randrange(-_JITTER_MS, _JITTER_MS)
            self._next[side] = at + self.intervals[side] + jitter
            self.tunnel.run(at)
            if self.is_silent[side]:
                continue
            self._fold(side)
            verdict = self.judge()
            if verdict is not None:
                self._alarm(side, verdict)
                self.verdicts += 1
                yield Seen(at, verdict, self.is_alarmed)
        self.tunnel.run(until)

    def restart_publisher(self) -> None:
        """Lose all evidence. The state of the alarm is in the database."""
        self._evidence = [None, None]
        self._failures = [0, 0]

    def judge(self) -> Verdict | None:
        """Return the verdict now, None before both ends have reported."""
        one, other = self._evidence
        if one is None or other is None:
            return None
        return judge(self._end(0, one), self._end(1, other))

    def _fold(self, side: int) -> None:
        counters = self.tunnel.sample(side)
        at = STARTED_AT + self.tunnel.now + self._random.randrange(_DELIVERY_MS)
        boot, index = f"boot {counters.boot}", counters.interface_index
        reading = Reading(at, self.intervals[side], counters.clock, boot, index, counters.rx_errors)
        before = self._evidence[side]
        self._evidence[side] = fold(before, reading, counters.rx, counters.tx, counters.latest_handshake)

    def _end(self, side: int, evidence: Evidence) -> End:
        end = self.tunnel.ends[side]
        endpoint = "192.0.2.1:51820" if end.has_endpoint else None
        view = View(end.settings.keepalive_seconds, endpoint, bool(end.preshared_key), STARTED_AT, evidence)
        age = STARTED_AT + self.tunnel.now - evidence.at
        is_silent = age > MISSED_REPORTS * self.intervals[side]
        standing = Standing.SILENT if is_silent else Standing.FRESH
        return End("ab"[side], "wg0", view, standing, at=evidence.at)

    def _alarm(self, side: int, verdict: Verdict) -> None:
        if verdict.state is TunnelState.UNCHANGED:
            return
        if verdict.state is TunnelState.UP:
            self.is_alarmed = False
        if alarm_kind(verdict) != "tunnel_down":
            self._failures[side] = 0
            return
        self._failures[side] += 1
        is_explained = any(
            evidence is not None and self._end(number, evidence).standing is Standing.SILENT
            for number, evidence in enumerate(self._evidence)
        )
        if (self._failures[side] >= 2 or verdict.is_certain) and not is_explained:
            self.is_alarmed = True
