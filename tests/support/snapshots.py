"""Creates snapshots and their parts, with defaults for all members that a test does not set."""

from __future__ import annotations

from typing import Any

from kattila_manager.pages.index_page import PageData, Source
from kattila_manager.records import Agent, Alarm, KeyName, RefusalCount, Snapshot
from kattila_manager.store.read.snapshots import summary_of
from kattila_manager.topology.presence import Watch
from support.fleet import DAY, HOUR, MINUTE, NOON, SECOND
from support.reports import Node, node, report

CURRENT = KeyName("eb97b356", NOON - 2 * HOUR, NOON - MINUTE)
PREVIOUS = KeyName("3954075d", NOON - 30 * DAY, NOON - HOUR)
KEYS = (CURRENT, PREVIOUS)
SOURCE = Source("manager.example.net", "kattila_manager.db", "0.1.0")
INTERVAL_MS = 30 * SECOND


def agent(number: int, **changes: Any) -> Agent:
    """Return an agent that reported 5 s before noon, directly, with the current key."""
    sender = node(number)
    members: dict[str, Any] = {
        "ref": number,
        "agent_id": sender.agent_id,
        "hostname": sender.hostname,
        "agent_version": "0.1.0",
        "first_seen_at": NOON - DAY,
        "last_seen_at": NOON - 5 * SECOND,
        "highest_sample": 100,
        "fingerprint": CURRENT.fingerprint,
        "clock_offset": 120,
        "relay_path": (),
        "latest_report_id": number,
        "instead_of": None,
        "waiting": None,
        "dropped": None,
        "dropped_at": None,
        "dropped_after": None,
        "interval_seconds": None,
        "source_address": None,
    }
    return Agent(**members | changes)


def snapshot(*agents: Agent, **changes: Any) -> Snapshot:
    """Return a snapshot of these agents with their newest reports, while the server listens."""
    members: dict[str, Any] = {
        "agents": agents,
        "reports": {
            one.latest_report_id: summary_of(report(_node(one), 100, NOON)) for one in agents if one.latest_report_id
        },
        "damaged": (),
        "refusals": (),
        "listening": (NOON - DAY, NOON - 2 * SECOND),
        "open_alarms": (),
        "closed_alarms": (),
        "counters": {},
        "edges": (),
        "late": {},
    }
    return Snapshot(**members | changes)


def watch(snapshot: Snapshot, now: int = NOON) -> Watch:
    """Return the watch on the agents at `now`."""
    return Watch(INTERVAL_MS, now, snapshot.listening)


def seen(snapshot: Snapshot, now: int = NOON) -> PageData:
    """Return the input of a page."""
    return PageData(snapshot, KEYS, watch(snapshot, now), SOURCE)


def refusal(kind: str, agent_id: str | None, count: int, last_at: int, **changes: Any) -> RefusalCount:
    """Return a refusal counter that started an hour before noon."""
    members: dict[str, Any] = {"first_at": NOON - HOUR, "detail": "a detail"}
    return RefusalCount(kind, agent_id, count, last_at=last_at, **members | changes)


def alarm(kind: str, agent_id: str | None, **changes: Any) -> Alarm:
    """Return an alarm that has been open for ten minutes."""
    members: dict[str, Any] = {
        "alarm_id": 1,
        "opened_at": NOON - 10 * MINUTE,
        "closed_at": None,
        "last_at": NOON - 10 * MINUTE,
        "count": 1,
        "detail": "a detail",
        "counter": None,
    }
    return Alarm(kind=kind, agent_id=agent_id, **members | changes)


def _node(one: Agent) -> Node:
    return node(one.ref)
