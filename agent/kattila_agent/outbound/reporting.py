"""One report cycle: measure, store, sign, deliver, and correct what the manager's verdict shows to be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kattila_agent.identity import Counters, Identity
from kattila_agent.outbound.delivery import Answered, Delivery, Outcome, OutgoingReport, Unsigned
from kattila_agent.outbound.discovery import Directory, candidates
from kattila_agent.outbound.http.connection import Connection
from kattila_agent.outbound.journal import Journal
from kattila_agent.outbound.registration import Registrar
from kattila_agent.runtime import Runtime
from kattila_agent.sampling import fitting
from kattila_agent.sampling.collect import Inputs
from kattila_agent.sampling.measurement import Measurement
from kattila_agent.spool import Spool, numbering, sample
from kattila_agent.spool.sample import Moment, Sample, Signing
from kattila_keys.refresh import Keys
from kattila_protocol import report
from kattila_protocol.errors import IdentityConflict, NumbersTooHigh, Replay, SampleTaken
from kattila_protocol.report import HeldKey
from kattila_protocol.ring import Ring
from kattila_protocol.verdict import Disposition, Verdict

# How often the newest report is corrected and sent again within one cycle.
MAX_CORRECTIONS = 3

# sampling.collect.measure, or a test's.
Measure = Callable[[Inputs], Measurement]


@dataclass(slots=True, eq=False)
class Reporter:
    """Reports one measurement per cycle. For one thread.

    `latest` may be read by others.
    """

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
        """Measure and report once; return whether the report arrived.

        If not, it waits on disk.

        Failures outside of this process are logged, once per change.

        Raises:
            StateError: the state folder cannot be used.
            TooMuchError: the measurement does not fit into a report.
            OSError: the kernel's boot id cannot be read.
        """
        held = [entry.key.fingerprint for entry in self.keys.ring().entries]
        inputs = replace(
            self.inputs,
            manager_address=self.manager.address,
            clock_offset=self.clock_offset,
            keys=tuple(HeldKey(name, "previous" if at else "current") for at, name in enumerate(held)),
        )
        measurement = self.latest = self.measure(inputs)
        found = candidates(measurement.telemetry)
        self.directory.update(found.addresses, are_all=not found.unread)
        counters = self.identity.take()
        newest = self._store(measurement, counters.sample)
        if not self.keys.ring().entries:
            self.journal.note_no_key(self.spool.waiting())
            return False
        # If the manager did not answer the last report itself, a registration would only delay this one.
        registered = self.registrar.ensure(counters.agent_id, measurement, newest) if self.goes_direct else None
        if registered is not None and self.identity.last() != counters:
            newest, counters = registered, self.identity.take(samples=0)
        return self._report(newest, counters, measurement)

    def send_again(self, waiting: Sample) -> Outcome:
        """Sign a sample that waited, and deliver it on the path of the newest report.

        If the manager refuses its number, it gets another one for its next attempt.
        """
        counters = self.identity.take(samples=0)
        outcome = self.delivery.deliver_again(self._outgoing(waiting, counters, self.keys.ring()))
        if isinstance(outcome, Answered):
            self._renumber(outcome.verdict, waiting, counters)
        return outcome

    def _store(self, measurement: Measurement, number: int) -> Sample:
        """Put the measurement into the spool, so that it survives failures."""
        moment = Moment(self.runtime.now(), measurement.boot_id, self.runtime.since_boot_ms())
        waiting = self.spool.expire(moment)
        backlog = report.Spool(waiting.count, waiting.bytes, waiting.dropped, waiting.oldest_sampled_at)
        telemetry = fitting.encode(replace(measurement.telemetry, spool=backlog), measurement.allowed_ips)
        newest = Sample(number, measurement.sampled_at, measurement.boot_id, measurement.since_boot_ms, telemetry)
        self.spool.put(newest, moment)
        self.journal.note_stored(self.spool.waiting(), self.spool.problem)
        return newest

    def _report(self, newest: Sample, counters: Counters, measurement: Measurement) -> bool:
        """Deliver the newest sample.

        If the first attempt shows what to correct, correct it and try again.
        """
        corrections = 0
        while True:
            ring = self.keys.ring()
            result = self.delivery.deliver(self._outgoing(newest, counters, ring), counters.agent_id)
            outcome = result.outcome
            self.goes_direct = result.relay is None and isinstance(outcome, Answered)
            if isinstance(outcome, Answered):
                self.clock_offset = outcome.verdict.clock_offset
                if outcome.verdict.disposition is Disposition.DELIVERED:
                    if outcome.verdict.highest_tick > counters.tick or outcome.verdict.highest_sample > newest.number:
                        self._keep_above(outcome.verdict, counters)
                    break
            may_correct = corrections < MAX_CORRECTIONS
            corrected = self._correct(outcome, newest, counters, ring, measurement) if may_correct else None
            if corrected is None:
                break
            newest, before, counters = corrected, counters, self.identity.take(samples=0)
            corrections = corrections + 1 if counters.agent_id == before.agent_id else MAX_CORRECTIONS
        is_settled = isinstance(outcome, Answered) and self.spool.settle(newest.number, outcome.verdict.disposition)
        self.journal.note_delivery(result, self.spool.waiting())
        return is_settled

    def _outgoing(self, waiting: Sample, counters: Counters, ring: Ring) -> OutgoingReport:
        nonce = self.runtime.nonce()
        boot_id = self.latest.boot_id if self.latest else waiting.boot_id
        now, since_boot_ms = self.runtime.now, self.runtime.since_boot_ms
        return OutgoingReport(
            lambda: sample.encode(
                waiting, Signing(counters.agent_id, counters.tick, nonce, Moment(now(), boot_id, since_boot_ms()))
            ),
            nonce,
            ring,
        )

    def _correct(
        self, outcome: Outcome, newest: Sample, counters: Counters, ring: Ring, measurement: Measurement
    ) -> Sample | None:
        """Correct what an outcome shows to be wrong.

        Return the sample to send again, None if that is useless.
        """
        match outcome:
            case Answered(Verdict(outcome=Replay.kind) as verdict):
                tick, number = numbering.believable(verdict, self.runtime.now())
                self.journal.note_replay(verdict, counters.tick, is_believed=tick > 0)
                if tick == 0:
                    return None
                return numbering.continue_above(self.identity, self.spool, counters.agent_id, tick, number, newest)
            case Answered(Verdict(outcome=NumbersTooHigh.kind | SampleTaken.kind) as verdict):
                return self._renumber(verdict, newest, counters)
            case Answered(Verdict(outcome=IdentityConflict.kind)):
                return self._take_new_id(newest, counters, measurement)
            case Unsigned() if self.keys.refresh_after_unknown(ring, self.runtime.now()) is not None:
                return newest
            case _:
                return None

    def _renumber(self, verdict: Verdict, refused: Sample, counters: Counters) -> Sample | None:
        """Renumber a sample if the verdict refuses its numbers; return it, None if it keeps its number."""
        highest = numbering.believable(verdict, self.runtime.now())
        parts = self.identity, self.spool, counters.agent_id, *highest, refused
        renumbered = None
        if verdict.outcome == NumbersTooHigh.kind:
            renumbered = numbering.continue_below(*parts)
        elif verdict.outcome == SampleTaken.kind:
            renumbered = numbering.take_other_number(*parts)
        if renumbered is not None:
            self.journal.note_renumbered(verdict, self.identity.last())
        return renumbered

    def _keep_above(self, verdict: Verdict, counters: Counters) -> None:
        """Continue above the numbers that the manager has seen. It took the newest report for a late one."""
        tick, number = numbering.believable(verdict, self.runtime.now())
        self.identity.raise_above(counters.agent_id, tick, number)

    def _take_new_id(self, newest: Sample, counters: Counters, measurement: Measurement) -> Sample:
        new_id = numbering.take_other_id(self.identity, self.spool, counters.agent_id, None, newest.boot_id)
        self.journal.note_new_id(counters.agent_id, new_id)
        self.registrar.forget()
        registered = self.registrar.ensure(new_id, measurement, newest) if self.goes_direct else None
        return registered or newest
