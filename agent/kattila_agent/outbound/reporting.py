"""One cycle: measure, keep, sign, deliver, and mend what the manager's verdict shows to be wrong.

May live here: what follows from an outcome. Not here: when a cycle is due (daemon), what waited longer (draining), and
what is said of it (journal).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kattila_agent.identity import Identity, Numbers
from kattila_agent.outbound.delivery import Answered, Carried, Courier, Outcome, Parcel, Unsigned
from kattila_agent.outbound.draining import settle
from kattila_agent.outbound.journal import Journal
from kattila_agent.outbound.registration import Registrar
from kattila_agent.runtime import Runtime
from kattila_agent.sampling import fitting
from kattila_agent.sampling.measurement import Measurement
from kattila_agent.spool import Spool, numbering, sample
from kattila_agent.spool.sample import Clock, Sample, Signing
from kattila_keys.refresh import Keys
from kattila_protocol import envelope, report
from kattila_protocol.errors import IdentityConflict, Replay
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Purpose
from kattila_protocol.verdict import Verdict

# Takes the moment (ms UTC) and the clock_offset of the manager's last verdict, None while unknown.
Measure = Callable[[int, int | None], Measurement]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A message as it was sent, and what became of it."""

    numbers: Numbers
    ring: Ring
    carried: Carried


@dataclass(slots=True, eq=False)
class Reporter:
    """The node as the manager hears it. For one thread; `latest` may be read by others."""

    runtime: Runtime
    identity: Identity
    keys: Keys
    spool: Spool
    courier: Courier
    registrar: Registrar
    measure: Measure
    journal: Journal
    latest: Measurement | None = None
    clock_offset: int | None = None
    goes_direct: bool = True

    def cycle(self) -> bool:
        """Measure and report once, and tell whether the report arrived; if not, it waits on disk.

        Whatever goes wrong outside of this process is logged, once per change.

        Raises:
            StateError: the state folder cannot be used.
            TooMuchError: the measurement fits into no report.
            OSError: the kernel's boot id cannot be read.
        """
        since_boot_ms = self.runtime.since_boot_ms()
        measurement = self.latest = self.measure(self.runtime.now(), self.clock_offset)
        numbers = self.identity.take()
        newest = self._kept(measurement, numbers.sample, since_boot_ms)
        if not self.keys.ring().entries:
            self.journal.has_no_key(self.spool.waiting())
            return False
        # Where the manager did not answer the last report, asking it for an id would only hold up the next.
        if self.goes_direct and self.registrar.ensure(measurement) and self.identity.last() != numbers:
            newest, numbers = self._with_its_number(newest), self.identity.take_tick()
        return self._report(newest, numbers, measurement)

    def send_again(self, waiting: Sample) -> Outcome:
        """Sign a sample that waited anew, and take it the way that the newest report went."""
        ring = self.keys.ring()
        return self.courier.deliver_again(self._parcel(waiting, self.identity.take_tick(), ring))

    def _kept(self, measurement: Measurement, number: int, since_boot_ms: int) -> Sample:
        """Put the measurement among those that wait: whatever happens from now on, it is not lost."""
        clock = self._clock()
        self.spool.expire(clock)
        waiting = self.spool.waiting()
        told = report.Spool(waiting.count, waiting.bytes, waiting.dropped, waiting.oldest_sampled_at)
        telemetry = fitting.encode(replace(measurement.telemetry, spool=told), measurement.allowed_ips)
        newest = Sample(number, measurement.sampled_at, measurement.boot_id, since_boot_ms, telemetry)
        self.spool.put(newest, clock)
        self.journal.has_kept(self.spool.waiting(), self.spool.problem)
        return newest

    def _report(self, newest: Sample, numbers: Numbers, measurement: Measurement) -> bool:
        attempt = self._sent(newest, numbers)
        if self._is_mended(attempt, measurement):
            newest = self._with_its_number(newest)
            attempt = self._sent(newest, self.identity.take_tick())
        outcome = attempt.carried.outcome
        is_over = isinstance(outcome, Answered) and settle(self.spool, newest.number, outcome.verdict)
        self.journal.has_sent(attempt.carried, self.spool.waiting())
        return is_over

    def _sent(self, newest: Sample, numbers: Numbers) -> Attempt:
        ring = self.keys.ring()
        carried = self.courier.deliver(self._parcel(newest, numbers, ring), numbers.agent_id)
        self.goes_direct = carried.relay is None and isinstance(carried.outcome, Answered)
        if isinstance(carried.outcome, Answered):
            self.clock_offset = carried.outcome.verdict.clock_offset
        return Attempt(numbers, ring, carried)

    def _parcel(self, kept: Sample, numbers: Numbers, ring: Ring) -> Parcel:
        nonce = self.runtime.nonce()
        signed = sample.encode(kept, Signing(numbers.agent_id, numbers.tick, nonce, self._clock()))
        return parcel(signed, nonce, ring)

    def _clock(self) -> Clock:
        boot_id = self.latest.boot_id if self.latest else ""
        return Clock(self.runtime.now(), boot_id, self.runtime.since_boot_ms())

    def _is_mended(self, attempt: Attempt, measurement: Measurement) -> bool:
        """Do what the outcome asks for; tell whether the same measurement is worth one more attempt."""
        match attempt.carried.outcome:
            case Answered(Verdict(outcome=Replay.kind) as verdict):
                self._go_on_above(attempt.numbers, verdict, measurement.boot_id)
                return True
            case Answered(Verdict(outcome=IdentityConflict.kind)):
                self._take_new_id(attempt.numbers, measurement)
                return True
            case Unsigned():
                return self.keys.refresh_after_unknown(attempt.ring, self.runtime.now()) is not None
            case _:
                return False

    def _go_on_above(self, numbers: Numbers, verdict: Verdict, boot_id: str) -> None:
        tick, number = verdict.highest_tick, verdict.highest_sample
        numbering.go_on_above(self.identity, self.spool, numbers.agent_id, tick, number, boot_id)
        self.journal.goes_on_above(numbers.tick, tick, number)

    def _take_new_id(self, numbers: Numbers, measurement: Measurement) -> None:
        fresh = numbering.leave(self.identity, self.spool, numbers.agent_id, None, measurement.boot_id)
        self.journal.has_new_id(numbers.agent_id, fresh)
        self.registrar.forget()
        if self.goes_direct:
            self.registrar.ensure(measurement)

    def _with_its_number(self, newest: Sample) -> Sample:
        """Return the newest sample under the number that it has now, as mending may have given it another."""
        kept = self.spool.read(self.spool.waiting().highest)
        if kept is not None and replace(kept, number=newest.number) == newest:
            return kept
        # It is not on the disk, which is full or broken.
        return replace(newest, number=max(newest.number, self.identity.take().sample))


def parcel(signed: bytes, nonce: str, ring: Ring) -> Parcel:
    """Return DATA as what a courier carries, signed with the ring's current key; raises NoKey if there is none."""
    key = ring.current
    return Parcel(
        nonce=nonce,
        mac=key.sign(Purpose.REPORT, signed),
        ring=ring,
        addressed_to=lambda recipient: envelope.seal(signed, key, recipient).to_bytes(),
    )
