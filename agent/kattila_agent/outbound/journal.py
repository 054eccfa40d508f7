"""What the agent says of its reports, for whoever reads the journal: once per change, not once per report.

May live here: the words. Not here: what is done (reporting, draining), and how a change is told from no change
(changes).
"""

from __future__ import annotations

import logging

from kattila_agent.outbound.changes import Changes
from kattila_agent.outbound.delivery import Answered, Busy, Carried, Outcome, Unreachable, Unsigned
from kattila_agent.outbound.discovery import Relay
from kattila_agent.spool import Waiting
from kattila_protocol.errors import ClockSkew
from kattila_protocol.verdict import Disposition, Verdict


class Journal:
    """The words for what happens to reports. For one thread."""

    def __init__(self, changes: Changes) -> None:
        """Take what remembers what was said."""
        self._changes = changes
        self._dropped: int | None = None

    def has_no_key(self, waiting: Waiting) -> None:
        """There is no PSK, so that nothing can be signed."""
        text = f"no PSK yet: what is measured waits on disk until DNS gives one ({_samples(waiting.count)} so far)"
        self._changes.note("key", "none", logging.WARNING, text)

    def has_kept(self, waiting: Waiting, problem: str | None) -> None:
        """A sample was put on disk, or not; some others may have had to go."""
        text = f"samples cannot be kept on disk: {problem}" if problem else "samples are kept on disk again"
        level = logging.WARNING if problem else logging.INFO if self._changes.was_said("disk") else logging.DEBUG
        self._changes.note("disk", problem or "", level, text)
        grown = 0 if self._dropped is None else waiting.dropped - self._dropped
        self._dropped = waiting.dropped
        text = (
            f"{_samples(grown)} had to be given up, as too old, too many, damaged or refused; {waiting.dropped} so far"
        )
        self._changes.note("dropped", "yes" if grown > 0 else "", logging.WARNING if grown > 0 else logging.DEBUG, text)

    def has_sent(self, carried: Carried, waiting: Waiting) -> None:
        """The newest report was sent, and perhaps arrived."""
        match carried.outcome:
            case Answered(verdict) if verdict.disposition is Disposition.DELIVERED:
                self._has_arrived(carried)
            case outcome:
                state, text = _why_not(outcome)
                if not isinstance(outcome, Answered):
                    # Relays come and go with each retry: that is no change worth a line of its own.
                    text = f"{text}; {_in_vain(carried.failed)}"
                self._changes.note("delivery", state, logging.WARNING, text)
                if waiting.count:
                    text = f"what is measured waits on disk ({_samples(waiting.count)})"
                    self._changes.note("waiting", "some", logging.WARNING, text)

    def sends_what_waited(self, count: int) -> None:
        """Reports arrive, and so many samples wait: said here only of those that an earlier run left."""
        text = f"{_samples(count)} of before {'waits' if count == 1 else 'wait'} on disk, to be sent beside the reports"
        self._changes.note("waiting", "some", logging.INFO, text)

    def has_drained(self) -> None:
        """Nothing waits any more."""
        level = logging.INFO if self._changes.was_said("waiting") else logging.DEBUG
        self._changes.note("waiting", "", level, "nothing waits on disk any more")
        self._changes.note("draining", "", logging.DEBUG, "nothing holds up what waits")

    def has_paused(self, outcome: Outcome) -> None:
        """A sample that waited did not arrive, and neither would the others."""
        state, text = _why_not(outcome)
        self._changes.note("draining", state, logging.WARNING, f"what waits stays on disk for now: {text}")

    def goes_on_above(self, tick: int, highest_tick: int, highest_sample: int) -> None:
        """The manager knows higher numbers than this node."""
        text = (
            f"tick {tick} was used before, as after a restored snapshot: going on above tick {highest_tick} and sample "
            f"{highest_sample}"
        )
        self._changes.note("numbers", f"{highest_tick}", logging.WARNING, text)

    def has_new_id(self, old_id: str, new_id: str) -> None:
        """Another machine holds the id."""
        text = (
            f"another machine reports as {old_id}: this one takes the new id {new_id}; "
            "was the disk cloned with agent_id.txt?"
        )
        self._changes.note("identity", new_id, logging.WARNING, text)

    def _has_arrived(self, carried: Carried) -> None:
        if carried.relay is None:
            self._changes.note("delivery", "direct", logging.INFO, "the manager takes the reports")
            return
        _, why = _why_not(carried.direct)
        text = f"{why}; reports go through {_name(carried.relay)}"
        self._changes.note("delivery", f"through {carried.relay.agent_id}", logging.WARNING, text)


def _why_not(outcome: Outcome) -> tuple[str, str]:
    """Return what stays the same while a state lasts, and the words."""
    match outcome:
        case Answered(verdict):
            return verdict.outcome, _refused(verdict)
        case Busy(seconds, words):
            return "busy", f"the manager asks to be left alone for {seconds} s: {words}"
        case Unsigned(status, reason, words):
            text = f"no key known here signed the manager's answer (HTTP {status}), which says: {words or reason}"
            return f"{status} {words or reason}", text
        case Unreachable(reason):
            return reason, f"the manager cannot be reached: {reason}"


def _in_vain(failed: tuple[tuple[Relay, Outcome], ...]) -> str:
    if not failed:
        return "no relay is known"
    said = (f"{_name(relay)}: {_in_short(outcome)}" for relay, outcome in failed)
    return f"{len(failed)} {'relay' if len(failed) == 1 else 'relays'} passed nothing on ({', '.join(said)})"


def _in_short(outcome: Outcome) -> str:
    match outcome:
        case Unsigned(status, _, _, kind):
            return kind or f"HTTP {status}"
        case Unreachable(reason):
            return reason
        case Busy():
            return "busy"
        case Answered(verdict):
            return verdict.outcome


def _refused(verdict: Verdict) -> str:
    if verdict.outcome == ClockSkew.kind:
        direction = "ahead of" if verdict.clock_offset > 0 else "behind"
        off = f"{abs(verdict.clock_offset) / 1000:.1f} s {direction} the manager's"
        return f"the manager refuses the reports: this node's clock is {off}; is NTP running?"
    return f"the manager refuses the reports ({verdict.outcome}): {verdict.detail}"


def _name(relay: Relay) -> str:
    """Return who a relay is; its host name is what it says of itself."""
    return f"{ascii(relay.hostname)[1:-1][:64] or relay.agent_id} at {relay.address}"


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"
