"""The fleet and its alarms as JSON documents, for the API and for `--json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kattila_manager.records import Agent, Alarm
from kattila_manager.store.read import queries
from kattila_manager.store.store import Store
from kattila_manager.topology.presence import Watch, presence

_CLOSED_SHOWN = 100


def agents(store: Store, interval_ms: int, now: int) -> dict[str, Any]:
    """Return all agents with their state and age, and whether the server is listening."""
    fleet, listening = store.read(lambda connection: (queries.all_agents(connection), queries.listening(connection)))
    watch = Watch(interval_ms, now, listening)
    names = {agent.agent_id: agent.hostname for agent in fleet}
    return {"now": now, "listening": watch.is_on, "agents": [_agent(agent, watch, names) for agent in fleet]}


def path(relay_path: Sequence[str], names: Mapping[str, str]) -> list[dict[str, str | None]]:
    """Return the relays of a path with their host names; None for a relay that never reported."""
    return [{"agent_id": relay, "hostname": names.get(relay)} for relay in relay_path]


def alarms(store: Store) -> dict[str, Any]:
    """Return the open alarms and the newest closed ones."""
    opened, closed = store.read(
        lambda connection: (queries.open_alarms(connection), queries.closed_alarms(connection, _CLOSED_SHOWN))
    )
    return {"open": [_alarm(alarm) for alarm in opened], "closed": [_alarm(alarm) for alarm in closed]}


def _agent(agent: Agent, watch: Watch, names: Mapping[str, str]) -> dict[str, Any]:
    members = asdict(agent)
    for internal in ("ref", "latest_report_id"):
        del members[internal]
    return members | {
        "age_seconds": max(0, watch.now - agent.last_seen_at) // 1000,
        "state": presence(agent, watch),
        "arrives": "relayed" if agent.relay_path else "direct",
        "path": path(agent.relay_path, names),
    }


def _alarm(alarm: Alarm) -> dict[str, Any]:
    members = asdict(alarm)
    del members["counter"]
    return members
