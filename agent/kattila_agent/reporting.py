"""One cycle: measure, sign, deliver, and mend what the manager's verdict shows to be wrong.

May live here: what follows from an outcome. Not here: when a cycle is due (daemon).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from kattila_agent import fitting
from kattila_agent.ambient import Ambient
from kattila_agent.changes import Changes
from kattila_agent.delivery import Answered, Manager, Outcome, Unreachable, Unsigned
from kattila_agent.identity import Identity, Numbers
from kattila_agent.measurement import Measurement
from kattila_agent.registering import Registrar
from kattila_keys.refresh import Keys
from kattila_protocol import envelope
from kattila_protocol.errors import ClockSkew, IdentityConflict, Replay
from kattila_protocol.ring import Ring
from kattila_protocol.verdict import Disposition, Verdict

# What is left of a body for DATA, with three relays in the path.
MAX_DATA_BYTES = envelope.MAX_BODY_BYTES - 1024

# Takes the moment (ms UTC), the manager's IP address and the clock_offset of its last verdict, None while unknown.
Measure = Callable[[int, str | None, int | None], Measurement]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A report as it was sent, and what became of it."""

    numbers: Numbers
    ring: Ring
    outcome: Outcome


class Reporter:
    """The node as the manager hears it. For one thread; `latest` and `reaches_manager` may be read by others."""

    def __init__(
        self,
        *,
        ambient: Ambient,
        identity: Identity,
        keys: Keys,
        manager: Manager,
        measure: Measure,
        changes: Changes,
    ) -> None:
        """Join the parts. Sends nothing yet."""
        self._ambient = ambient
        self._identity = identity
        self._keys = keys
        self._manager = manager
        self._measure = measure
        self._changes = changes
        self._registrar = Registrar(ambient, identity, keys, manager, changes)
        self._clock_offset: int | None = None
        self.latest: Measurement | None = None
        self.reaches_manager = False

    def cycle(self) -> None:
        """Measure and report once; whatever goes wrong outside of this process is logged, once per change.

        Raises:
            StateError: the state folder cannot be used.
            OSError: the kernel's boot id cannot be read.
        """
        now = self._ambient.now()
        measurement = self.latest = self._measure(now, self._manager.address, self._clock_offset)
        if not self._keys.ring().entries:
            self._changes.note("key", "none", logging.WARNING, "no PSK yet: reporting begins when DNS gives one")
            return
        self._registrar.ensure(measurement)
        attempt = self._send(measurement)
        if self._is_mended(attempt, measurement):
            attempt = self._send(measurement)
        self.reaches_manager = isinstance(attempt.outcome, Answered)
        self._note(attempt.outcome)

    def _send(self, measurement: Measurement) -> Attempt:
        ring = self._keys.ring()
        numbers = self._identity.take()
        nonce = self._ambient.nonce()
        body = seal(measurement, numbers, nonce, self._ambient.now(), ring)
        outcome = self._manager.deliver(body, nonce, ring)
        if isinstance(outcome, Answered):
            self._clock_offset = outcome.verdict.clock_offset
        return Attempt(numbers, ring, outcome)

    def _is_mended(self, attempt: Attempt, measurement: Measurement) -> bool:
        """Do what the outcome asks for; tell whether the same measurement is worth one more attempt."""
        match attempt.outcome:
            case Answered(Verdict(outcome=Replay.kind) as verdict):
                self._go_on_above(attempt.numbers, verdict)
                return True
            case Answered(Verdict(outcome=IdentityConflict.kind)):
                self._take_new_id(attempt.numbers, measurement)
                return True
            case Unsigned():
                return self._keys.refresh_after_unknown(attempt.ring, self._ambient.now()) is not None
            case _:
                return False

    def _go_on_above(self, numbers: Numbers, verdict: Verdict) -> None:
        self._identity.raise_above(numbers.agent_id, verdict.highest_tick, verdict.highest_sample)
        self._changes.note(
            "numbers",
            f"{verdict.highest_tick}",
            logging.WARNING,
            f"tick {numbers.tick} was used before, as after a restored snapshot: going on above tick "
            f"{verdict.highest_tick} and sample {verdict.highest_sample}",
        )

    def _take_new_id(self, numbers: Numbers, measurement: Measurement) -> None:
        fresh = self._identity.replace(numbers.agent_id)
        self._changes.note(
            "identity",
            fresh,
            logging.WARNING,
            f"another machine reports as {numbers.agent_id}: this one takes the new id {fresh}; "
            "was the disk cloned with agent_id.txt?",
        )
        self._registrar.forget()
        self._registrar.ensure(measurement)

    def _note(self, outcome: Outcome) -> None:
        match outcome:
            case Answered(verdict) if verdict.disposition is Disposition.DELIVERED:
                self._changes.note("delivery", "delivered", logging.INFO, "the manager takes the reports")
            case Answered(verdict):
                self._changes.note("delivery", verdict.outcome, logging.WARNING, _refused(verdict))
            case Unsigned(status, reason, words):
                text = f"no key known here signed the manager's answer (HTTP {status}), which says: {words or reason}"
                self._changes.note("delivery", f"{status} {words or reason}", logging.WARNING, text)
            case Unreachable(reason):
                self._changes.note("delivery", reason, logging.WARNING, f"the manager cannot be reached: {reason}")


def seal(measurement: Measurement, numbers: Numbers, nonce: str, now: int, ring: Ring) -> bytes:
    """Return the body that says this measurement under these numbers, signed now (ms UTC) for the manager.

    Raises:
        NoKey: the ring is empty.
    """
    report = measurement.report(
        agent_id=numbers.agent_id, sample=numbers.sample, tick=numbers.tick, nonce=nonce, timestamp=now
    )
    return envelope.seal(fitting.encode(report, MAX_DATA_BYTES), ring.current).to_bytes()


def _refused(verdict: Verdict) -> str:
    if verdict.outcome == ClockSkew.kind:
        direction = "ahead of" if verdict.clock_offset > 0 else "behind"
        off = f"{abs(verdict.clock_offset) / 1000:.1f} s {direction} the manager's"
        return f"the manager refuses the reports: this node's clock is {off}; is NTP running?"
    return f"the manager refuses the reports ({verdict.outcome}): {verdict.detail}"
