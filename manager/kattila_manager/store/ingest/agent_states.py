"""Reads and writes the rows of the agents table that a write transaction judges reports against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from kattila_manager.store.ingest.identity import ALTERNATING_MS, Claim, Identity, Ruling, bind, judge, limited
from kattila_manager.store.schema import agent_boots, agents, for_driver
from kattila_protocol.registration import all_addresses, identifying_addresses
from kattila_protocol.report import Report


@dataclass(slots=True)
class AgentState:
    """One agent during a write transaction; the fields are columns of the agents table."""

    ref: int
    agent_id: str
    hostname: str
    agent_version: str
    first_seen_at: int
    last_seen_at: int
    highest_tick: int
    highest_sample: int
    latest_report_id: int | None
    window: bytes
    fingerprint: str
    clock_offset: int
    relay_path: str
    boot_id: str
    boot_hardware: str
    hardware: str
    challenger_boot_id: str
    reset_at: int
    waiting: int | None = None
    dropped: int | None = None
    dropped_at: int | None = None
    dropped_after: int | None = None
    interval_seconds: int | None = None
    source_address: str | None = None


_NAMES = tuple(field.name for field in fields(AgentState))
_COLUMNS = [agents.c[name] for name in _NAMES]
_SELECT = select(*_COLUMNS).where(agents.c.agent_id.in_(bindparam("ids", expanding=True)))
_CHANGING = [name for name in _NAMES if name not in ("ref", "agent_id", "first_seen_at")]
_CREATE = insert(agents).returning(agents.c.ref)
_UPDATE = for_driver(
    update(agents)
    .where(agents.c.ref == bindparam("b_ref"))
    .ordered_values(*((agents.c[name], bindparam(name)) for name in _CHANGING))
)

# For each id: boots that held it, boots refused under it, and sets of hardware seen within a boot.
MOST_BOOTS = 32
_BOOT_KEY = ("agent_ref", "boot_id")
_changing_of = attrgetter(*_CHANGING)


def load(connection: Connection, agent_ids: Iterable[str]) -> dict[str, AgentState]:
    """Return the states of these agents by id; unknown ids are left out."""
    rows = connection.execute(_SELECT, {"ids": list(set(agent_ids))})
    return {row[1]: AgentState(*row) for row in rows}


def save(connection: Connection, states: Iterable[AgentState]) -> None:
    """Write changed states to the database."""
    rows = [(*_changing_of(state), state.ref) for state in states]
    if rows:
        connection.exec_driver_sql(_UPDATE, rows)


def create(
    connection: Connection, agent_id: str, hostname: str, claim: Claim, now: int, instead_of: str | None
) -> AgentState:
    """Bind an id that no machine holds, and return its state."""
    identity = bind(claim)
    columns: dict[str, Any] = {
        "agent_id": agent_id,
        "hostname": hostname,
        "agent_version": "",
        "first_seen_at": now,
        "last_seen_at": now,
        "highest_tick": 0,
        "highest_sample": 0,
        "latest_report_id": None,
        "window": b"",
        "fingerprint": "",
        "clock_offset": 0,
        "relay_path": "",
        "boot_id": identity.boot_id,
        "boot_hardware": _join(identity.boot_hardware),
        "hardware": _join(identity.hardware),
        "challenger_boot_id": "",
        "reset_at": 0,
    }
    ref = connection.execute(_CREATE, columns | {"instead_of": instead_of}).scalar_one()
    connection.execute(insert(agent_boots).values(agent_ref=ref, boot_id=claim.boot_id, first_seen_at=now, refused=0))
    return AgentState(ref=ref, **columns)


def claim_of(report: Report) -> Claim:
    """Return a report's claim to its id: its boot and its hardware addresses."""
    interfaces = report.telemetry.interfaces
    return Claim(report.boot_id, limited(identifying_addresses(interfaces)), all_addresses(interfaces))


def is_holder(state: AgentState, report: Report) -> bool:
    """Return whether a report is certainly from the machine that holds the id; the usual case."""
    if report.boot_id != state.boot_id or state.challenger_boot_id:
        return False
    return identifying_addresses(report.telemetry.interfaces) <= set(state.boot_hardware.split(","))


def rule(connection: Connection, state: AgentState, claim: Claim, now: int, *, is_newest: bool) -> Ruling:
    """Judge a claim to this state's id (see `judge`) and update the state; the caller saves it."""
    known = _identity(connection, state, now)
    ruling, after = judge(known, claim, now - state.last_seen_at, is_newest=is_newest)
    if after != known:
        _update(connection, state, known, after, now)
    return ruling


def is_settled(connection: Connection, state: AgentState, boot_id: str) -> bool:
    """Return whether the ruling on a boot is final: it holds the id, or it was refused."""
    return boot_id == state.boot_id or boot_id in _identity(connection, state, 0).refused


def refused_as(connection: Connection, boot_id: str) -> str | None:
    """Return the id that was last refused to a boot because another machine holds it; None if it never happened."""
    mine = (agent_boots.c.boot_id == boot_id) & (agent_boots.c.refused == 1)
    under = select(agents.c.agent_id).join(agent_boots, agent_boots.c.agent_ref == agents.c.ref).where(mine)
    return connection.execute(under.order_by(agent_boots.c.first_seen_at.desc()).limit(1)).scalar()


def _identity(connection: Connection, state: AgentState, now: int) -> Identity:
    rows = connection.execute(
        select(agent_boots.c.boot_id, agent_boots.c.refused, agent_boots.c.first_seen_at).where(
            agent_boots.c.agent_ref == state.ref
        )
    ).all()
    boots = [(boot, refused) for boot, refused, _ in rows if "/" not in boot]
    mine = [(boot, refused, at) for boot, refused, at in rows if boot.startswith(f"{state.boot_id}/")]
    return Identity(
        boot_id=state.boot_id,
        boot_hardware=_split(state.boot_hardware),
        hardware=_split(state.hardware),
        challenger=state.challenger_boot_id,
        former=frozenset(boot for boot, refused in boots if not refused and boot != state.boot_id),
        refused=frozenset(boot for boot, refused in boots if refused),
        displaced=frozenset(_hardware_of(b) for b, refused, at in mine if not refused and now - at <= ALTERNATING_MS),
        refused_hardware=frozenset(_hardware_of(boot) for boot, refused, _ in mine if refused),
    )


def _update(connection: Connection, state: AgentState, known: Identity, after: Identity, now: int) -> None:
    state.boot_id, state.challenger_boot_id = after.boot_id, after.challenger
    state.boot_hardware, state.hardware = _join(after.boot_hardware), _join(after.hardware)
    fresh = (after.refused | {after.boot_id}) - known.refused - known.former - {known.boot_id}
    for boot_id in sorted(fresh):
        row = {"agent_ref": state.ref, "boot_id": boot_id, "first_seen_at": now, "refused": 0}
        connection.execute(insert(agent_boots).values(row))
    for boot_id in sorted(after.refused - known.refused):
        mine = (agent_boots.c.agent_ref == state.ref) & (agent_boots.c.boot_id == boot_id)
        connection.execute(update(agent_boots).where(mine).values(refused=1))
    if (after.displaced, after.refused_hardware) != (known.displaced, known.refused_hardware):
        _update_hardware(connection, state, known, after, now)
    _forget_old_boots(connection, state)


def _forget_old_boots(connection: Connection, state: AgentState) -> None:
    """Keep the newest boots of each kind. A forgotten one that returns is a second machine as soon as the next returns.

    Every new boot of an id reads all its boots, so their number must not grow without end.
    """
    mine = (agent_boots.c.agent_ref == state.ref) & (agent_boots.c.boot_id != state.boot_id)
    has_hardware, is_refused = agent_boots.c.boot_id.contains("/"), agent_boots.c.refused == 1
    for kind in (has_hardware, ~has_hardware & is_refused, ~has_hardware & ~is_refused):
        newest_first = select(agent_boots.c.boot_id).where(mine, kind).order_by(agent_boots.c.first_seen_at.desc())
        doomed = agent_boots.c.boot_id.in_(newest_first.offset(MOST_BOOTS))
        connection.execute(delete(agent_boots).where(mine, doomed))


def _update_hardware(connection: Connection, state: AgentState, known: Identity, after: Identity, now: int) -> None:
    """Write the sets of hardware under the current boot: rows whose boot is followed by a slash and addresses."""
    before = {(each, 0) for each in known.displaced} | {(each, 1) for each in known.refused_hardware}
    wanted = {(each, 0) for each in after.displaced} | {(each, 1) for each in after.refused_hardware}
    for hardware, refused in sorted(wanted - before, key=str):
        row = {"agent_ref": state.ref, "boot_id": f"{after.boot_id}/{_join(hardware)}", "first_seen_at": now}
        connection.execute(delete(agent_boots).where(*(agent_boots.c[name] == row[name] for name in _BOOT_KEY)))
        connection.execute(insert(agent_boots).values(row | {"refused": refused}))


def _hardware_of(boot: str) -> frozenset[str]:
    return _split(boot.partition("/")[2])


def _join(addresses: frozenset[str]) -> str:
    return ",".join(sorted(addresses))


def _split(text: str) -> frozenset[str]:
    return frozenset(text.split(",")) if text else frozenset()
