"""Register this node with the manager: once per run and id. An agent that cannot register reports anyway."""

from __future__ import annotations

import logging

from kattila_agent.identity import Identity
from kattila_agent.outbound.delivery import Answered, Outcome, Unreachable, read_answer
from kattila_agent.outbound.http.clients import REGISTER
from kattila_agent.outbound.http.connection import Connection, UnreachableError
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.measurement import Measurement
from kattila_agent.spool import Spool, numbering
from kattila_agent.spool.sample import Sample
from kattila_keys.refresh import Keys
from kattila_protocol import registration
from kattila_protocol.foreign_text import DETAIL_LENGTH, shown
from kattila_protocol.registration import Registration
from kattila_protocol.verdict import Disposition, Verdict
from kattila_settings.failures import StateLog

FIRST_RETRY_SECONDS = 30.0
LAST_RETRY_SECONDS = 600.0
# The report of the same cycle waits for it.
_TOTAL_SECONDS = 5.0


class Registrar:
    """Registers the current id when that is due. For one thread."""

    def __init__(
        self,
        runtime: Runtime,
        identity: Identity,
        spool: Spool,
        keys: Keys,
        manager: Connection,
        log: StateLog,
    ) -> None:
        """Take the parts. Sends nothing yet."""
        self._runtime = runtime
        self._identity = identity
        self._spool = spool
        self._keys = keys
        self._manager = manager
        self._log = log
        self._registered_id: str | None = None
        self._due_at = 0.0
        self._retry_seconds = FIRST_RETRY_SECONDS

    def ensure(self, agent_id: str, measurement: Measurement, newest: Sample) -> Sample | None:
        """Register this id, unless this run has done so or a failed attempt is too recent.

        Returns the newest sample, under the number that it has from now on, if the manager accepted the registration.
        The manager may have issued another id, or reported numbers that this node has to exceed.

        Raises:
            NoKey: the ring is empty.
            StateError: the state folder cannot be used.
        """
        if agent_id == self._registered_id or self._runtime.monotonic() < self._due_at:
            return None
        outcome = self._send(agent_id, measurement)
        if isinstance(outcome, Answered) and outcome.verdict.disposition is Disposition.DELIVERED:
            return self._adopt(agent_id, outcome.verdict, newest)
        self._postpone(outcome)
        return None

    def forget(self) -> None:
        """Make the next registration due at once, since the id was lost."""
        self._registered_id = None
        self._due_at = 0.0

    def _send(self, agent_id: str, measurement: Measurement) -> Outcome:
        nonce = self._runtime.nonce()
        ring = self._keys.ring()

        def signed() -> bytes:
            request = Registration(
                agent_id=agent_id,
                boot_id=measurement.boot_id,
                hostname=measurement.hostname,
                hardware_addresses=measurement.hardware_addresses,
                nonce=nonce,
                timestamp=self._runtime.now(),
            )
            return registration.seal(request, ring.current)

        try:
            reply = self._manager.post(REGISTER, signed, total_seconds=_TOTAL_SECONDS)
        except UnreachableError as error:
            return Unreachable(str(error))
        return read_answer(reply, nonce, ring)

    def _adopt(self, proposed_id: str, verdict: Verdict, newest: Sample) -> Sample:
        agent_id, issued = proposed_id, ""
        if verdict.agent_id != proposed_id:
            agent_id = numbering.take_other_id(
                self._identity, self._spool, proposed_id, verdict.agent_id, newest.boot_id
            )
            issued = f"; the manager issued this id, because another machine uses {proposed_id}"
        tick, sample = numbering.believable(verdict, self._runtime.now())
        newest = numbering.continue_above(self._identity, self._spool, verdict.agent_id, tick, sample, newest)
        self._registered_id = agent_id
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._log.note("registration", agent_id, logging.INFO, f"registered as {agent_id}{issued}")
        return newest

    def _postpone(self, outcome: Outcome) -> None:
        self._due_at = self._runtime.monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, LAST_RETRY_SECONDS)
        if not isinstance(outcome, Answered):
            return  # The report that follows meets the same problem, and logs it.
        why = shown(outcome.verdict.detail or outcome.verdict.outcome, DETAIL_LENGTH)
        self._log.note("registration", "failed", logging.WARNING, f"not registered, reporting anyway: {why}")
