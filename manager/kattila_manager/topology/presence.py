"""Decides whether an agent reports, is silent, or cannot be judged: the one rule for alarms, pages and the API."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kattila_manager.records import Agent

# One report may be lost and one late; three missing reports are a silence.
MISSED_REPORTS = 3
# Longer than the time between two heartbeats of the server.
_BEAT_MS = 20_000


@dataclass(frozen=True, slots=True)
class Watch:
    """What agents are judged by: a report interval, the time now, and when the server was listening.

    `interval_ms` is for agents that do not report theirs. `listening` is (since, until) in ms, None if it never was.
    """

    interval_ms: int
    now: int
    listening: tuple[int, int] | None

    @property
    def is_on(self) -> bool:
        """Whether the server is listening now. While it is not, all agents are unheard and none is silent."""
        return self.listening is not None and self.now - self.listening[1] <= _BEAT_MS


class Presence(StrEnum):
    """The states of an agent.

    It reports directly; it reports through relays, because it cannot reach the manager; it is silent; or it is
    unheard, because the server was not listening for long enough.
    """

    REPORTING = "reporting"
    RELAYED = "relayed"
    SILENT = "silent"
    UNHEARD = "unheard"


def presence(agent: Agent, watch: Watch) -> Presence:
    """Return an agent's state; it is unheard if it has not reported since the server's absence."""
    if silent_since(agent, watch) is not None:
        return Presence.SILENT
    is_recent = watch.now - agent.last_seen_at <= MISSED_REPORTS * interval_of(agent, watch.interval_ms)
    if not (watch.is_on and is_recent):
        return Presence.UNHEARD
    return Presence.RELAYED if agent.relay_path else Presence.REPORTING


def silent_since(agent: Agent, watch: Watch) -> int | None:
    """Return since when (ms UTC) an agent has been silent, or None if it is not silent or cannot be judged.

    After an absence of the server, every agent again has three of its intervals to report.
    """
    if watch.listening is None or not watch.is_on:
        return None
    expected_from = max(agent.last_seen_at, watch.listening[0])
    patience = MISSED_REPORTS * interval_of(agent, watch.interval_ms)
    return agent.last_seen_at if watch.now - expected_from > patience else None


def interval_of(agent: Agent, otherwise_ms: int) -> int:
    """Return an agent's report interval in ms: its own, or the other one if it does not report it."""
    return otherwise_ms if agent.interval_seconds is None else agent.interval_seconds * 1000
