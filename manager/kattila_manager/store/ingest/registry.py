"""Ids: bound at first contact, reset by an administrator.

May live here: write transactions on the fleet registry that no report brings.
"""

from __future__ import annotations

import hashlib
import uuid

from sqlalchemy import Connection, delete, select, update

from kattila_manager.records import Filed, refused
from kattila_manager.store.ingest import agent_states
from kattila_manager.store.ingest.agent_states import AgentState
from kattila_manager.store.ingest.identity import Claim, Ruling
from kattila_manager.store.schema import agent_boots, agent_interfaces, agents, refusals
from kattila_protocol.errors import IdentityUnproven
from kattila_protocol.registration import Registration, normalised_addresses
from kattila_protocol.verdict import ACCEPTED


def register(connection: Connection, registration: Registration, now: int) -> tuple[str, Filed]:
    """Bind the proposed id, or issue another if a different machine holds it; the caller commits either way.

    Returns the id that the agent has from now on, and what became of its request: accepted, or refused with
    IdentityUnproven while it is not clear whether another machine holds the id. The same registration again, replayed
    or retried, has the same outcome.
    """
    claim = Claim(registration.boot_id, normalised_addresses(registration.hardware_addresses))
    issued = issued_id(registration)
    known = agent_states.load(connection, (registration.agent_id, issued))
    if issued in known:
        return _registered(known[issued])
    holder = known.get(registration.agent_id)
    if holder is None:
        left = agent_states.refused_as(connection, registration.boot_id)
        return _registered(
            agent_states.create(connection, registration.agent_id, registration.hostname, claim, now, left)
        )
    # It has no tick, so that it may be an old one; the report that follows it proves what it cannot.
    ruling = agent_states.rule(connection, holder, claim, now, is_newest=False)
    agent_states.save(connection, [holder])
    if ruling is Ruling.UNPROVEN:
        refusal = IdentityUnproven(f"another machine ({holder.hostname}) reported as {holder.agent_id} a moment ago")
        return holder.agent_id, refused(refusal)
    if ruling is Ruling.CONFLICT:
        return _registered(agent_states.create(connection, issued, registration.hostname, claim, now, holder.agent_id))
    return _registered(holder)


def issued_id(registration: Registration) -> str:
    """Return the id that is issued when the proposed one is taken: version 8 of RFC 9562, made from the request."""
    digest = hashlib.sha256(f"kattila/1/issued\n{registration.agent_id}\n{registration.nonce}".encode()).digest()
    made = bytearray(digest[:16])
    # Before Python 3.14 the uuid module knows no version above 5.
    made[6] = made[6] & 0x0F | 0x80
    made[8] = made[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(made)))


def reset(connection: Connection, agent_id: str | None, now: int) -> int:
    """Forget what is known of one agent, or of all (None), but its reports; return how many agents that were.

    Reports signed before `now` (ms UTC) are refused from then on. The highest sample stays, since measurements are
    unique in the audit log.
    """
    mine = agents.c.agent_id == agent_id if agent_id else agents.c.ref > 0
    refs = select(agents.c.ref).where(mine)
    for table in (agent_boots, agent_interfaces):
        connection.execute(delete(table).where(table.c.agent_ref.in_(refs)))
    connection.execute(
        delete(refusals).where(refusals.c.agent_id == agent_id if agent_id else refusals.c.agent_id != "")
    )
    forgotten = {"window": b"", "highest_tick": 0, "boot_id": "", "boot_hardware": "", "hardware": ""}
    return connection.execute(
        update(agents).where(mine).values(**forgotten, challenger_boot_id="", reset_at=now)
    ).rowcount


def _registered(state: AgentState) -> tuple[str, Filed]:
    return state.agent_id, Filed(ACCEPTED, state.highest_tick, state.highest_sample)
