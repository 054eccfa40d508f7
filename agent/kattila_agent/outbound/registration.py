"""First contact with the manager: which id this node reports under.

May live here: when to register and what follows from the answer. An agent that cannot register reports anyway.
"""

from __future__ import annotations

import logging

from kattila_agent.identity import Identity
from kattila_agent.outbound.changes import Changes
from kattila_agent.outbound.delivery import Answered, Manager, Outcome
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.measurement import Measurement
from kattila_agent.spool import Spool, numbering
from kattila_keys.refresh import Keys
from kattila_protocol import registration
from kattila_protocol.registration import Registration
from kattila_protocol.verdict import Disposition, Verdict

FIRST_RETRY_SECONDS = 30.0
LAST_RETRY_SECONDS = 600.0


class Registrar:
    """Which id was registered in this run, and when the next attempt is due. For one thread."""

    def __init__(
        self, runtime: Runtime, identity: Identity, spool: Spool, keys: Keys, manager: Manager, changes: Changes
    ) -> None:
        """Join what a registration needs. Sends nothing yet."""
        self._runtime = runtime
        self._identity = identity
        self._spool = spool
        self._keys = keys
        self._manager = manager
        self._changes = changes
        self._registered_id: str | None = None
        self._due_at = 0.0
        self._retry_seconds = FIRST_RETRY_SECONDS

    def ensure(self, measurement: Measurement) -> bool:
        """Register the present id, unless this run did or a failed attempt is too recent; tell whether it was adopted.

        The manager may have issued another id then, or told numbers above which this node goes on.

        Raises:
            NoKey: the ring is empty.
            StateError: the state folder cannot be used.
        """
        agent_id = self._identity.agent_id()
        if agent_id == self._registered_id or self._runtime.monotonic() < self._due_at:
            return False
        outcome = self._send(agent_id, measurement)
        if isinstance(outcome, Answered) and outcome.verdict.disposition is Disposition.DELIVERED:
            self._adopt(agent_id, outcome.verdict, measurement.boot_id)
            return True
        self._put_off(outcome)
        return False

    def forget(self) -> None:
        """Register anew at the next occasion, as the id was lost."""
        self._registered_id = None
        self._due_at = 0.0

    def _send(self, agent_id: str, measurement: Measurement) -> Outcome:
        nonce = self._runtime.nonce()
        request = Registration(
            agent_id=agent_id,
            boot_id=measurement.boot_id,
            hostname=measurement.hostname,
            hardware_addresses=measurement.hardware_addresses,
            nonce=nonce,
            timestamp=self._runtime.now(),
        )
        ring = self._keys.ring()
        return self._manager.register(registration.seal(request, ring.current), nonce, ring)

    def _adopt(self, proposed_id: str, verdict: Verdict, boot_id: str) -> None:
        agent_id = proposed_id
        if verdict.agent_id != proposed_id:
            agent_id = numbering.leave(self._identity, self._spool, proposed_id, verdict.agent_id, boot_id)
        numbering.go_on_above(
            self._identity, self._spool, verdict.agent_id, verdict.highest_tick, verdict.highest_sample, boot_id
        )
        self._registered_id = agent_id
        self._retry_seconds = FIRST_RETRY_SECONDS
        why = "" if agent_id == proposed_id else f"; the manager issued it, as {proposed_id} is another machine's"
        self._changes.note("registration", agent_id, logging.INFO, f"registered as {agent_id}{why}")

    def _put_off(self, outcome: Outcome) -> None:
        self._due_at = self._runtime.monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, LAST_RETRY_SECONDS)
        if not isinstance(outcome, Answered):
            return  # Whatever is wrong is said by the report that follows.
        why = outcome.verdict.detail or outcome.verdict.outcome
        self._changes.note("registration", "failed", logging.WARNING, f"not registered, reporting anyway: {why}")
