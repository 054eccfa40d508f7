"""The log lines about reports: one per change, not one per report."""

from __future__ import annotations

import logging

from kattila_agent.identity import Counters
from kattila_agent.outbound.delivery import Answered, Busy, DeliveryResult, Outcome, Unreachable, Unsigned
from kattila_agent.outbound.discovery import Relay
from kattila_agent.spool import Waiting
from kattila_protocol.errors import ClockSkew
from kattila_protocol.foreign_text import DETAIL_LENGTH, shown
from kattila_protocol.verdict import Disposition, Verdict
from kattila_settings.failures import StateLog


class Journal:
    """Logs what happens to reports. For one thread."""

    def __init__(self, log: StateLog) -> None:
        """Take the log that suppresses repetitions."""
        self._log = log
        self._dropped: int | None = None

    def note_no_key(self, waiting: Waiting) -> None:
        """Log that there is no PSK, so that nothing can be signed."""
        text = f"no PSK yet: samples wait on disk until DNS provides one ({_samples(waiting.count)} so far)"
        self._log.note("key", "none", logging.WARNING, text)

    def note_stored(self, waiting: Waiting, problem: str | None) -> None:
        """Log whether samples can be stored on disk, and whether others were dropped."""
        text = f"samples cannot be stored on disk: {problem}" if problem else "samples are stored on disk again"
        self._log.note("disk", problem or "", logging.WARNING if problem else logging.INFO, text)
        grown = 0 if self._dropped is None else waiting.dropped - self._dropped
        self._dropped = waiting.dropped
        if grown > 0:
            text = f"{_samples(grown)} dropped: too old, too many, damaged or refused ({waiting.dropped} so far)"
            self._log.note("dropped", "yes", logging.WARNING, text)
        else:
            self._log.note("dropped", "", logging.DEBUG, "no sample was dropped")

    def note_delivery(self, result: DeliveryResult, waiting: Waiting) -> None:
        """Log whether the newest report arrived, and on which path."""
        outcome, relay = result.outcome, result.relay
        if not isinstance(outcome, Answered):
            state, text = _failure(outcome)
            # Which relays failed is not part of the state: relays come and go with each attempt.
            self._note_undelivered(state, f"{text}; {_failed(result.failed)}", waiting)
        elif outcome.verdict.disposition is not Disposition.DELIVERED:
            self._note_undelivered(*_failure(outcome), waiting)
        elif relay is None:
            self._log.note("delivery", "direct", logging.INFO, "the manager takes the reports")
        else:
            _, why = _failure(result.direct)
            text = f"{why}; reports go through {_name(relay)}"
            self._log.note("delivery", f"through {relay.agent_id}", logging.WARNING, text)

    def note_backlog(self, count: int) -> None:
        """Log that samples wait while reports arrive.

        Only those of an earlier run are news here.
        """
        text = f"{_samples(count)} of an earlier run {'waits' if count == 1 else 'wait'} on disk and will be sent"
        self._log.note("waiting", "some", logging.INFO, text)

    def note_drained(self) -> None:
        """Log that no sample waits any more."""
        self._log.note("waiting", "", logging.INFO, "no sample waits on disk any more")
        self._log.note("draining", "", logging.DEBUG, "no waiting sample is held up")

    def note_paused(self, outcome: Outcome) -> None:
        """Log that a waiting sample did not arrive, and that the others will not either."""
        state, text = _failure(outcome)
        self._log.note("draining", state, logging.WARNING, f"waiting samples stay on disk for now: {text}")

    def note_replay(self, verdict: Verdict, tick: int, *, is_believed: bool) -> None:
        """Log that the manager has seen higher numbers than this node, or reports impossible ones."""
        if is_believed:
            text = (
                f"tick {tick} was used before: was the state folder restored from a copy? continuing above tick "
                f"{verdict.highest_tick} and sample {verdict.highest_sample}"
            )
            self._log.note("numbers", f"{verdict.highest_tick}", logging.WARNING, text)
        else:
            text = (
                f"the manager's highest tick for this agent, {verdict.highest_tick}, is impossible, so reports wait: "
                f"run 'kattila-manager reset {verdict.agent_id}' at the manager"
            )
            self._log.note("numbers", "impossible", logging.WARNING, text)

    def note_renumbered(self, verdict: Verdict, last: Counters) -> None:
        """Log that the manager refused the numbers of this node, and which ones follow."""
        text = (
            f"the manager refuses this node's numbers ({verdict.outcome}): continuing above tick {last.tick} and "
            f"sample {last.sample}; were its counters damaged, or does another machine report under its id?"
        )
        self._log.note("numbers", verdict.outcome, logging.WARNING, text)

    def note_new_id(self, old_id: str, new_id: str) -> None:
        """Log that another machine has the id."""
        text = (
            f"another machine reports as {old_id}: this one takes the new id {new_id}; "
            "was the disk cloned with agent_id.txt?"
        )
        self._log.note("identity", new_id, logging.WARNING, text)

    def _note_undelivered(self, state: str, text: str, waiting: Waiting) -> None:
        self._log.note("delivery", state, logging.WARNING, text)
        if waiting.count:
            text = f"undelivered samples wait on disk ({_samples(waiting.count)})"
            self._log.note("waiting", "some", logging.WARNING, text)


def _failure(outcome: Outcome) -> tuple[str, str]:
    """Return a failure as a state, without details that vary, and as text."""
    match outcome:
        case Answered(verdict):
            return shown(verdict.outcome), _refusal(verdict)
        case Busy(seconds, words):
            return "busy", f"the manager asks for a pause of {seconds} s: {words}"
        case Unsigned(status, reason, words):
            text = f"no known key signed the manager's answer (HTTP {status}), which says: {words or reason}"
            return f"{status} {words or reason}", text
        case Unreachable(reason):
            return reason, f"the manager cannot be reached: {reason}"


def _failed(failed: tuple[tuple[Relay, Outcome], ...]) -> str:
    if not failed:
        return "no relay is known"
    relays = ", ".join(f"{_name(relay)}: {_in_short(outcome)}" for relay, outcome in failed)
    return f"{len(failed)} {'relay' if len(failed) == 1 else 'relays'} could not deliver it ({relays})"


def _in_short(outcome: Outcome) -> str:
    match outcome:
        case Unsigned(status, _, _, kind):
            return shown(kind) or f"HTTP {status}"
        case Unreachable(reason):
            return reason
        case Busy():
            return "busy"
        case Answered(verdict):
            return shown(verdict.outcome)


def _refusal(verdict: Verdict) -> str:
    if verdict.outcome == ClockSkew.kind:
        direction = "ahead of" if verdict.clock_offset > 0 else "behind"
        offset = f"{abs(verdict.clock_offset) / 1000:.1f} s {direction} the manager's"
        return f"the manager refuses the reports: this node's clock is {offset}; is NTP running?"
    return f"the manager refuses the reports ({shown(verdict.outcome)}): {shown(verdict.detail, DETAIL_LENGTH)}"


def _name(relay: Relay) -> str:
    """Return a relay's name. The host name is unverified, so it is escaped and cut."""
    return f"{shown(relay.hostname) or relay.agent_id} at {relay.address}"


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"
