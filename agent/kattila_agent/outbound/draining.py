"""Send what waited: after the newest report arrived, in order, spread over the interval.

May live here: which sample is next, when, and what its verdict means for the others. Not here: how one is signed and
carried (reporting, delivery) or kept (spool).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from kattila_agent.outbound.delivery import Answered, Outcome
from kattila_agent.outbound.journal import Journal
from kattila_agent.runtime import Runtime
from kattila_agent.spool import Spool
from kattila_agent.spool.sample import Sample
from kattila_protocol.errors import ClockSkew, IdentityConflict, IdentityUnproven, Overloaded, Replay
from kattila_protocol.verdict import Disposition, Verdict

# A backlog shrinks by a quarter in each interval, so that one of a day is gone after some minutes; a short one goes at
# once.
SHARE_PER_INTERVAL = 4
LEAST_PER_INTERVAL = 10
# What these say holds for every sample: the newest report, in the next interval, finds out whether it still does.
_ABOUT_ALL = (ClockSkew.kind, IdentityConflict.kind, IdentityUnproven.kind, Overloaded.kind, Replay.kind)


def per_interval(waiting: int) -> int:
    """Return how many of so many waiting samples are sent within one interval."""
    return max(LEAST_PER_INTERVAL, math.ceil(waiting / SHARE_PER_INTERVAL))


class Draining:
    """The samples that wait, on their way out. For one thread.

    `send` signs a sample anew, carries it the way that the newest report went, and returns what became of it.
    """

    def __init__(
        self,
        spool: Spool,
        send: Callable[[Sample], Outcome],
        runtime: Runtime,
        interval_seconds: float,
        journal: Journal,
    ) -> None:
        """Join the parts. Sends nothing yet."""
        self._spool = spool
        self._send = send
        self._runtime = runtime
        self._interval_seconds = interval_seconds
        self._journal = journal
        self._gap_seconds = interval_seconds
        # They had their turn and did not arrive: so that a bad one holds up none, the others come first.
        self._behind: set[int] = set()
        self.due_at: float | None = None

    def begin(self) -> None:
        """Go on for one interval, now that the newest report has arrived."""
        waiting = len(self._spool.numbers())
        if waiting == 0:
            self.due_at = None
            self._journal.has_drained()
            return
        self._journal.sends_what_waited(waiting)
        self._gap_seconds = self._interval_seconds / per_interval(waiting)
        self._put_off()

    def stop(self) -> None:
        """Send nothing until the newest report arrives again."""
        self.due_at = None

    def step(self) -> None:
        """Send the next one, and choose when the one after it is due."""
        number = next((each for each in self._spool.numbers() if each not in self._behind), None)
        if number is None:
            self._behind.clear()
            self.stop()
            return
        sample = self._spool.read(number)
        if sample is None:
            # What is damaged is gone by now. What the disk does not give stays, and holds up nothing.
            self._behind.add(number)
        if sample is None or self._is_settled(number, self._send(sample)):
            self._put_off()

    def _is_settled(self, number: int, outcome: Outcome) -> bool:
        """Do what the outcome asks for; tell whether the next sample is worth sending."""
        if not isinstance(outcome, Answered):
            # Perhaps none gets through at the moment, perhaps only this one does not, for its size say.
            self._behind.add(number)
        if not isinstance(outcome, Answered) or outcome.verdict.outcome in _ABOUT_ALL:
            self._journal.has_paused(outcome)
            self.stop()
            return False
        if not settle(self._spool, number, outcome.verdict):
            self._behind.add(number)
        return True

    def _put_off(self) -> None:
        # A fleet that comes back together does not send together.
        self.due_at = self._runtime.monotonic() + self._gap_seconds * (0.5 + self._runtime.share())


def settle(spool: Spool, number: int, verdict: Verdict) -> bool:
    """Take a sample out of the spool if the verdict allows it; tell whether it did."""
    match verdict.disposition:
        case Disposition.DELIVERED:
            spool.remove(number)
        case Disposition.DROPPED:
            spool.drop(number)
        case Disposition.KEPT:
            return False
    return True
