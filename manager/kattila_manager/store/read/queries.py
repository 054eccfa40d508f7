"""Reads agents, alarms, edges, refusals and reports from the database, as frozen values."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, exists, func, select

from kattila_manager.records import Agent, Alarm, Edge, Record, RefusalCount, Subject
from kattila_manager.store.bodies import data_of
from kattila_manager.store.schema import agents, alarms, forgotten, receivers, refusals, reports, topology_edges

_AGENT = (
    agents.c.ref,
    agents.c.agent_id,
    agents.c.hostname,
    agents.c.agent_version,
    agents.c.first_seen_at,
    agents.c.last_seen_at,
    agents.c.highest_sample,
    agents.c.fingerprint,
    agents.c.clock_offset,
    agents.c.relay_path,
    agents.c.latest_report_id,
    agents.c.instead_of,
    agents.c.waiting,
    agents.c.dropped,
    agents.c.dropped_at,
    agents.c.dropped_after,
    agents.c.interval_seconds,
    agents.c.source_address,
)

_EDGE = (
    topology_edges.c.id,
    topology_edges.c.kind,
    topology_edges.c.a_ref,
    topology_edges.c.b_ref,
    topology_edges.c.state,
    topology_edges.c.evidence,
    topology_edges.c.first_seen_at,
    topology_edges.c.last_seen_at,
)


# Reports are pruned in the order of their ids. So a group is whole if its key is not older than the first report.
IS_WHOLE = reports.c.key_id >= select(func.min(reports.c.id)).scalar_subquery()


# A report changes one of both. A reset, or a step of the clock, does not.
IS_FORGOTTEN = exists().where(
    forgotten.c.agent_ref == agents.c.ref,
    agents.c.highest_tick <= forgotten.c.highest_tick,
    agents.c.latest_report_id.is_not_distinct_from(forgotten.c.latest_report_id),
)


def all_agents(connection: Connection) -> tuple[Agent, ...]:
    """Return all agents except the forgotten ones, ordered by host name and id."""
    rows = connection.execute(select(*_AGENT).where(~IS_FORGOTTEN).order_by(agents.c.hostname, agents.c.agent_id))
    return tuple(_agent(row) for row in rows)


def all_edges(connection: Connection) -> tuple[Edge, ...]:
    """Return all edges, in the order in which they were first seen."""
    return tuple(Edge(*row) for row in connection.execute(select(*_EDGE).order_by(topology_edges.c.id)))


def known_agents(connection: Connection) -> tuple[Agent, ...]:
    """Return all agents, also the forgotten ones, ordered by host name and id."""
    rows = connection.execute(select(*_AGENT).order_by(agents.c.hostname, agents.c.agent_id))
    return tuple(_agent(row) for row in rows)


def has_agent(connection: Connection, agent_id: str) -> bool:
    """Return whether an agent has registered or reported under this id."""
    return connection.execute(select(agents.c.ref).where(agents.c.agent_id == agent_id)).first() is not None


def open_alarms(connection: Connection) -> tuple[Alarm, ...]:
    """Return the open alarms, newest first."""
    return _alarms(connection, alarms.c.closed_at.is_(None), limit=None)


def closed_alarms(connection: Connection, limit: int) -> tuple[Alarm, ...]:
    """Return the newest closed alarms."""
    return _alarms(connection, alarms.c.closed_at.is_not(None), limit)


def alarms_closed_since(connection: Connection, since: int, limit: int) -> tuple[Alarm, ...]:
    """Return the newest alarms that were closed at `since` (ms UTC) or later."""
    return _alarms(connection, alarms.c.closed_at >= since, limit)


def alarm_counters(connection: Connection) -> dict[Subject, int]:
    """Return the counter value at the newest alarm of each subject."""
    newest = select(func.max(alarms.c.id)).group_by(alarms.c.kind, alarms.c.agent_id)
    query = select(alarms.c.kind, alarms.c.agent_id, alarms.c.counter).where(alarms.c.id.in_(newest))
    return {(kind, agent_id): counter for kind, agent_id, counter in connection.execute(query) if counter is not None}


def refusal_counts(connection: Connection) -> tuple[RefusalCount, ...]:
    """Return the counters of refused messages, by kind and agent, without those from before an agent was forgotten."""
    is_past = exists().where(
        agents.c.agent_id == refusals.c.agent_id,
        forgotten.c.agent_ref == agents.c.ref,
        refusals.c.last_at <= forgotten.c.forgotten_at,
    )
    query = (
        select(
            refusals.c.kind,
            refusals.c.agent_id,
            refusals.c.count,
            refusals.c.first_at,
            refusals.c.last_at,
            refusals.c.detail,
        )
        .where(~is_past)
        .order_by(refusals.c.kind, refusals.c.agent_id)
    )
    return tuple(
        RefusalCount(kind, agent_id or None, count, first_at, last_at, detail)
        for kind, agent_id, count, first_at, last_at, detail in connection.execute(query)
    )


def listening(connection: Connection) -> tuple[int, int] | None:
    """Return since when and until when the server's workers were listening (ms UTC); None if they never ran."""
    row = connection.execute(select(func.min(receivers.c.up_since), func.max(receivers.c.alive_at))).one()
    return None if row[0] is None else (row[0], row[1])


def record(connection: Connection, agent_id: str, sample: int | None) -> Record | None:
    """Return one report, the newest sample if `sample` is None; None if there is no such report."""
    mine = (agents.c.agent_id == agent_id) & (reports.c.agent_ref == agents.c.ref)
    which = reports.c.sample == sample if sample is not None else reports.c.id == agents.c.latest_report_id
    row = connection.execute(select(reports, agents.c.agent_id).where(mine & which & IS_WHOLE)).first()
    return None if row is None else record_of(row, data_of(connection, row.id))


def record_of(row: Row[Any], data: bytes) -> Record:
    """Return a row of reports with its agent's id as a record; `data` is its DATA."""
    return Record(
        agent_id=row.agent_id,
        sample=row.sample,
        tick=row.tick,
        received_at=row.received_at,
        sampled_at=row.sampled_at,
        fingerprint=row.fingerprint.hex(),
        relay_path=_ids(row.relay_path),
        mac=row.mac.hex(),
        data=data,
    )


def _agent(row: Any) -> Agent:
    members = dict(row._mapping)
    return Agent(**members | {"relay_path": _ids(members["relay_path"])})


def _alarms(connection: Connection, condition: Any, limit: int | None) -> tuple[Alarm, ...]:
    query = select(
        alarms.c.id,
        alarms.c.kind,
        alarms.c.agent_id,
        alarms.c.opened_at,
        alarms.c.closed_at,
        alarms.c.last_at,
        alarms.c.count,
        alarms.c.detail,
        alarms.c.counter,
    )
    rows = connection.execute(
        query.where(condition).order_by(alarms.c.opened_at.desc(), alarms.c.id.desc()).limit(limit)
    )
    return tuple(Alarm(*row) for row in rows)


def _ids(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()
