"""Is an agent heard of: the one rule that alarms, pages and the API share.

May live here: the rule as a pure function.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kattila_manager.records import Agent

# One report may get lost and one be late; three are a silence.
MISSED_REPORTS = 3
# Between two heartbeats of the server, and then some.
_BEAT_MS = 20_000


@dataclass(frozen=True, slots=True)
class Watch:
    """What the rule needs beside the agent: the report interval, the moment, and when the server was listening.

    `listening` is (since, until) in ms UTC, None for never.
    """

    interval_ms: int
    now: int
    listening: tuple[int, int] | None

    @property
    def is_on(self) -> bool:
        """Tell whether the server listens now: while it does not, nobody is silent, everybody is unheard."""
        return self.listening is not None and self.now - self.listening[1] <= _BEAT_MS


class Presence(StrEnum):
    """What is known of an agent.

    It reports itself; it reports, but its newest report came through others, as it cannot reach the manager; it is
    silent; or nobody could have heard it (yet).
    """

    REPORTING = "reporting"
    RELAYED = "relayed"
    SILENT = "silent"
    UNHEARD = "unheard"


def presence(agent: Agent, watch: Watch) -> Presence:
    """Judge an agent; one that was last heard long ago, and not yet since the server is back, is unheard."""
    if silent_since(agent, watch) is not None:
        return Presence.SILENT
    is_recent = watch.now - agent.last_seen_at <= MISSED_REPORTS * watch.interval_ms
    if not (watch.is_on and is_recent):
        return Presence.UNHEARD
    return Presence.RELAYED if agent.relay_path else Presence.REPORTING


def silent_since(agent: Agent, watch: Watch) -> int | None:
    """Return since when (ms UTC) an agent has been silent, or None if it is not, or if nobody could have heard it.

    After the server itself was away, an agent has as long as any other to report again.
    """
    if watch.listening is None or not watch.is_on:
        return None
    expected_from = max(agent.last_seen_at, watch.listening[0])
    return agent.last_seen_at if watch.now - expected_from > MISSED_REPORTS * watch.interval_ms else None
