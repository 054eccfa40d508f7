"""Forgets agents until their next reports."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, delete, insert, select, update

from kattila_manager.store.schema import agents, alarms, forgotten


def forget(connection: Connection, agent_ref: int, now: int) -> int:
    """Hide an agent until its next report, and close its open alarms at `now` (ms UTC); return their number."""
    state = select(agents.c.ref, agents.c.highest_tick, agents.c.latest_report_id).where(agents.c.ref == agent_ref)
    row = connection.execute(state).one()._mapping
    connection.execute(delete(forgotten).where(forgotten.c.agent_ref == agent_ref))
    columns = {"forgotten_at": now, "highest_tick": row["highest_tick"], "latest_report_id": row["latest_report_id"]}
    connection.execute(insert(forgotten).values(columns | {"agent_ref": agent_ref}))
    agent_id = select(agents.c.agent_id).where(agents.c.ref == agent_ref).scalar_subquery()
    is_open = (alarms.c.agent_id == agent_id) & alarms.c.closed_at.is_(None)
    return connection.execute(update(alarms).where(is_open).values(closed_at=now)).rowcount


def forget_all(connection: Connection, agent_refs: Iterable[int], now: int) -> int:
    """Hide these agents, as `forget` does; return how many alarms were closed."""
    return sum(forget(connection, agent_ref, now) for agent_ref in agent_refs)
