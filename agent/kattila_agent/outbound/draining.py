"""Deliver the samples that waited: in order, after the newest report arrived, and spread over the interval."""

from __future__ import annotations

import math
from collections.abc import Callable

from kattila_agent.outbound.delivery import Answered, Outcome
from kattila_agent.outbound.journal import Journal
from kattila_agent.runtime import Runtime
from kattila_agent.spool import Spool
from kattila_agent.spool.sample import Sample
from kattila_protocol.errors import ClockSkew, IdentityConflict, IdentityUnproven, Overloaded, Replay

# A backlog shrinks by a quarter in each interval, so that even one of a day is gone after some minutes. A short backlog
# is sent within one interval.
SHARE_PER_INTERVAL = 4
LEAST_PER_INTERVAL = 10
# These refusals hold for every sample. The newest report of the next interval shows whether they still do.
_HOLD_FOR_ALL = (ClockSkew.kind, IdentityConflict.kind, IdentityUnproven.kind, Overloaded.kind, Replay.kind)


def per_interval(waiting: int) -> int:
    """Return how many of the waiting samples are sent within one interval."""
    return max(LEAST_PER_INTERVAL, math.ceil(waiting / SHARE_PER_INTERVAL))


class Draining:
    """Sends the waiting samples one by one. For one thread.

    `send` signs a sample, delivers it on the path of the newest report, and returns the outcome.
    """

    def __init__(
        self,
        spool: Spool,
        send: Callable[[Sample], Outcome],
        runtime: Runtime,
        interval_seconds: float,
        journal: Journal,
    ) -> None:
        """Take the parts. Sends nothing yet."""
        self._spool = spool
        self._send = send
        self._runtime = runtime
        self._interval_seconds = interval_seconds
        self._journal = journal
        self._gap_seconds = interval_seconds
        # Samples that were sent and did not arrive. The others come first, so that a bad one delays none of them.
        self._failed: set[int] = set()
        self.due_at: float | None = None

    def begin(self) -> None:
        """Drain for one interval, now that the newest report has arrived."""
        waiting = len(self._spool.numbers())
        if waiting == 0:
            self.due_at = None
            self._journal.note_drained()
            return
        self._journal.note_backlog(waiting)
        self._gap_seconds = self._interval_seconds / per_interval(waiting)
        self._schedule_next()

    def stop(self) -> None:
        """Send nothing until the newest report arrives again."""
        self.due_at = None

    def step(self) -> None:
        """Send the next sample, and decide when the one after it is due."""
        number = next((each for each in self._spool.numbers() if each not in self._failed), None)
        if number is None:
            self._failed.clear()
            self.stop()
            return
        # A damaged sample is gone after reading. One that cannot be read or sent stays, and delays no other.
        self._failed.add(number)
        sample = self._spool.read(number)
        if sample is None or self._handle(number, self._send(sample)):
            self._schedule_next()

    def _handle(self, number: int, outcome: Outcome) -> bool:
        """Act on an outcome; return whether the next sample is worth sending."""
        if isinstance(outcome, Answered):
            # Otherwise perhaps only this sample does not get through, for example for its size.
            self._failed.discard(number)
        if not isinstance(outcome, Answered) or outcome.verdict.outcome in _HOLD_FOR_ALL:
            self._journal.note_paused(outcome)
            self.stop()
            return False
        if not self._spool.settle(number, outcome.verdict.disposition):
            self._failed.add(number)
        return True

    def _schedule_next(self) -> None:
        # The random share keeps the agents of a fleet that comes back together from sending together.
        self.due_at = self._runtime.monotonic() + self._gap_seconds * (0.5 + self._runtime.share())
