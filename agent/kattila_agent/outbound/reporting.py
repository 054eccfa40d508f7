"""One report cycle: measure, store, sign, deliver, and correct what the manager's verdict shows to be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kattila_agent.identity import Identity, Numbers
from kattila_agent.outbound.connection import Connection
from kattila_agent.outbound.delivery import Answered, Delivery, DeliveryResult, Outcome, OutgoingReport, Unsigned
from kattila_agent.outbound.discovery import Directory, candidates, unread
from kattila_agent.outbound.journal import Journal
from kattila_agent.outbound.registration import Registrar
from kattila_agent.runtime import Runtime
from kattila_agent.sampling import fitting
from kattila_agent.sampling.collect import Inputs
from kattila_agent.sampling.measurement import Measurement
from kattila_agent.spool import Spool, numbering, sample
from kattila_agent.spool.sample import Clock, Sample, Signing
from kattila_keys.refresh import Keys
from kattila_protocol import report
from kattila_protocol.errors import IdentityConflict, Replay
from kattila_protocol.ring import Ring
from kattila_protocol.verdict import Verdict

# sampling.collect.measure, or a test's: takes its inputs, the moment (ms UTC) and a clock in seconds.
Measure = Callable[[Inputs, int, Callable[[], float]], Measurement]


@dataclass(slots=True, eq=False)
class Reporter:
    """Reports one measurement per cycle. For one thread; `latest` may be read by others."""

    runtime: Runtime
    identity: Identity
    keys: Keys
    spool: Spool
    delivery: Delivery
    manager: Connection
    registrar: Registrar
    directory: Directory
    measure: Measure
    inputs: Inputs
    journal: Journal
    latest: Measurement | None = None
    clock_offset: int | None = None
    goes_direct: bool = True

    def cycle(self) -> bool:
        """Measure and report once; return whether the report arrived. If not, it waits on disk.

        Failures outside of this process are logged, once per change.

        Raises:
            StateError: the state folder cannot be used.
            TooMuchError: the measurement does not fit into a report.
            OSError: the kernel's boot id cannot be read.
        """
        since_boot_ms = self.runtime.since_boot_ms()
        inputs = replace(self.inputs, manager_address=self.manager.address, clock_offset=self.clock_offset)
        measurement = self.latest = self.measure(inputs, self.runtime.now(), self.runtime.monotonic)
        self.directory.update(candidates(measurement.telemetry), are_all=not unread(measurement.telemetry))
        numbers = self.identity.take()
        newest = self._store(measurement, numbers.sample, since_boot_ms)
        if not self.keys.ring().entries:
            self.journal.note_no_key(self.spool.waiting())
            return False
        # If the manager did not answer the last report itself, a registration would only delay this one.
        registered = self.registrar.ensure(numbers.agent_id, measurement, newest) if self.goes_direct else None
        if registered is not None and self.identity.last() != numbers:
            newest, numbers = registered, self.identity.take_tick()
        return self._report(newest, numbers, measurement)

    def send_again(self, waiting: Sample) -> Outcome:
        """Sign a sample that waited, and deliver it on the path of the newest report."""
        return self.delivery.deliver_again(self._outgoing(waiting, self.identity.take_tick(), self.keys.ring()))

    def _store(self, measurement: Measurement, number: int, since_boot_ms: int) -> Sample:
        """Put the measurement into the spool: whatever happens from now on, it is not lost."""
        clock = self._clock()
        self.spool.expire(clock)
        waiting = self.spool.waiting()
        backlog = report.Spool(waiting.count, waiting.bytes, waiting.dropped, waiting.oldest_sampled_at)
        telemetry = fitting.encode(replace(measurement.telemetry, spool=backlog), measurement.allowed_ips)
        newest = Sample(number, measurement.sampled_at, measurement.boot_id, since_boot_ms, telemetry)
        self.spool.put(newest, clock)
        self.journal.note_stored(self.spool.waiting(), self.spool.problem)
        return newest

    def _report(self, newest: Sample, numbers: Numbers, measurement: Measurement) -> bool:
        """Deliver the newest sample, in a second attempt if the first one showed what to correct."""
        ring = self.keys.ring()
        result = self._deliver(newest, numbers, ring)
        corrected = self._correct(result.outcome, newest, numbers, ring, measurement)
        if corrected is not None:
            newest = corrected
            result = self._deliver(newest, self.identity.take_tick(), self.keys.ring())
        outcome = result.outcome
        is_settled = isinstance(outcome, Answered) and self.spool.settle(newest.number, outcome.verdict.disposition)
        self.journal.note_delivery(result, self.spool.waiting())
        return is_settled

    def _deliver(self, newest: Sample, numbers: Numbers, ring: Ring) -> DeliveryResult:
        result = self.delivery.deliver(self._outgoing(newest, numbers, ring), numbers.agent_id)
        self.goes_direct = result.relay is None and isinstance(result.outcome, Answered)
        if isinstance(result.outcome, Answered):
            self.clock_offset = result.outcome.verdict.clock_offset
        return result

    def _outgoing(self, waiting: Sample, numbers: Numbers, ring: Ring) -> OutgoingReport:
        nonce = self.runtime.nonce()
        data = sample.encode(waiting, Signing(numbers.agent_id, numbers.tick, nonce, self._clock()))
        return OutgoingReport(data, nonce, ring)

    def _clock(self) -> Clock:
        boot_id = self.latest.boot_id if self.latest else ""
        return Clock(self.runtime.now(), boot_id, self.runtime.since_boot_ms())

    def _correct(
        self, outcome: Outcome, newest: Sample, numbers: Numbers, ring: Ring, measurement: Measurement
    ) -> Sample | None:
        """Correct what an outcome shows to be wrong; return the sample to send again, None if that is no use."""
        match outcome:
            case Answered(Verdict(outcome=Replay.kind) as verdict):
                tick, number = verdict.highest_tick, verdict.highest_sample
                newest = numbering.continue_above(self.identity, self.spool, numbers.agent_id, tick, number, newest)
                self.journal.note_replay(numbers.tick, tick, number)
                return newest
            case Answered(Verdict(outcome=IdentityConflict.kind)):
                return self._take_new_id(newest, numbers, measurement)
            case Unsigned() if self.keys.refresh_after_unknown(ring, self.runtime.now()) is not None:
                return newest
            case _:
                return None

    def _take_new_id(self, newest: Sample, numbers: Numbers, measurement: Measurement) -> Sample:
        new_id = numbering.take_other_id(self.identity, self.spool, numbers.agent_id, None, newest.boot_id)
        self.journal.note_new_id(numbers.agent_id, new_id)
        self.registrar.forget()
        registered = self.registrar.ensure(new_id, measurement, newest) if self.goes_direct else None
        return registered or newest
