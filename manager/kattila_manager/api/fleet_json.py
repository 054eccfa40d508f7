"""The fleet and its alarms as JSON documents, for the API and for `--json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kattila_manager.records import Agent, Alarm
from kattila_manager.store.read import queries
from kattila_manager.store.store import Store
from kattila_manager.topology.newcomers import crowd
from kattila_manager.topology.presence import Watch, presence

_CLOSED_SHOWN = 100


def agents(store: Store, interval_ms: int, now: int, *, with_all: bool = False) -> dict[str, Any]:
    """Return the agents with their state and age, and whether the server is listening.

    A crowd of new agents is left out, and only counted, unless `with_all` is true.
    """
    fleet, listening = store.read(lambda connection: (queries.all_agents(connection), queries.listening(connection)))
    watch = Watch(interval_ms, now, listening)
    names = {agent.agent_id: agent.hostname for agent in fleet}
    left_out = frozenset() if with_all else crowd(fleet)
    listed = [_agent(agent, watch, names) for agent in fleet if agent.agent_id not in left_out]
    return {"now": now, "listening": watch.is_on, "agents": listed, "left_out": len(left_out)}


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
