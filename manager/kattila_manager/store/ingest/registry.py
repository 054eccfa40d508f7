"""Binds agent ids at registration, and resets agents for an administrator."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable

from sqlalchemy import Connection, delete, select, update

from kattila_manager.records import Filed, refused
from kattila_manager.store.ingest import admission, agent_states
from kattila_manager.store.ingest.admission import AdmissionLimits
from kattila_manager.store.ingest.agent_states import AgentState
from kattila_manager.store.ingest.identity import Claim, Ruling, limited
from kattila_manager.store.schema import agent_boots, agent_interfaces, agents, refusals
from kattila_protocol.errors import IdentityUnproven, TooManyAgents
from kattila_protocol.foreign_text import shown
from kattila_protocol.registration import Registration, normalised_addresses
from kattila_protocol.verdict import ACCEPTED


def register(
    connection: Connection,
    registration: Registration,
    now: int,
    limits: AdmissionLimits | None = None,
    source: str = "",
) -> tuple[str, Filed]:
    """Bind the proposed id, or issue another if a different machine holds it; the caller commits either way.

    Returns the agent's id from now on, and the outcome: accepted, or refused with IdentityUnproven while another
    machine may hold the id, or with TooManyAgents if the limits on new agents are reached. A replayed or retried
    registration has the same outcome.
    """
    try:
        return _register(connection, registration, now, lambda: admission.admit(connection, limits, source, now))
    except TooManyAgents as refusal:
        return registration.agent_id, refused(refusal)


def _register(
    connection: Connection, registration: Registration, now: int, admit: Callable[[], None]
) -> tuple[str, Filed]:
    claim = Claim(registration.boot_id, limited(normalised_addresses(registration.hardware_addresses)))
    issued = issued_id(registration)
    known = agent_states.load(connection, (registration.agent_id, issued))
    if issued in known:
        return _registered(known[issued])
    holder = known.get(registration.agent_id)
    if holder is None:
        admit()
        left = agent_states.refused_as(connection, registration.boot_id)
        return _registered(
            agent_states.create(connection, registration.agent_id, registration.hostname, claim, now, left)
        )
    # A registration has no tick, so it may be old. The next report proves what it cannot.
    ruling = agent_states.rule(connection, holder, claim, now, is_newest=False)
    agent_states.save(connection, [holder])
    if ruling is Ruling.UNPROVEN:
        who = f"another machine ({shown(holder.hostname)})"
        refusal = IdentityUnproven(f"{who} reported as {holder.agent_id} a moment ago")
        return holder.agent_id, refused(refusal)
    if ruling is Ruling.CONFLICT:
        admit()
        return _registered(agent_states.create(connection, issued, registration.hostname, claim, now, holder.agent_id))
    return _registered(holder)


def issued_id(registration: Registration) -> str:
    """Return the id to issue if the proposed one is taken: a UUID of version 8 (RFC 9562), derived from the request."""
    digest = hashlib.sha256(f"kattila/1/issued\n{registration.agent_id}\n{registration.nonce}".encode()).digest()
    made = bytearray(digest[:16])
    # The uuid module makes no version above 5 before Python 3.14.
    made[6] = made[6] & 0x0F | 0x80
    made[8] = made[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(made)))


def reset(connection: Connection, agent_id: str | None, now: int) -> int:
    """Forget the state of one agent, or of all (None), but keep the reports; return the number of agents.

    Reports signed before `now` (ms UTC) are refused afterwards. A sample that is in the audit log stays a duplicate.
    """
    mine = agents.c.agent_id == agent_id if agent_id else agents.c.ref > 0
    refs = select(agents.c.ref).where(mine)
    for table in (agent_boots, agent_interfaces):
        connection.execute(delete(table).where(table.c.agent_ref.in_(refs)))
    connection.execute(
        delete(refusals).where(refusals.c.agent_id == agent_id if agent_id else refusals.c.agent_id != "")
    )
    forgotten = {"window": b"", "highest_tick": 0, "highest_sample": 0, "boot_id": "", "boot_hardware": ""}
    return connection.execute(
        update(agents).where(mine).values(**forgotten, hardware="", challenger_boot_id="", reset_at=now)
    ).rowcount


def _registered(state: AgentState) -> tuple[str, Filed]:
    return state.agent_id, Filed(ACCEPTED, state.highest_tick, state.highest_sample)
