"""Decides which new agents are so many that they are summed up instead of listed, on pages, in lists and in alarms.

Anybody with the PSK can invent agents. Those that came first and have reported for a while are never summed up.
"""

from __future__ import annotations

from collections.abc import Sequence

from kattila_manager.records import Agent

# An agent is new until it has reported for this long.
SETTLED_MS = 5 * 60 * 1000
# A fleet of this size is listed completely, however new it is. A larger one may grow by half.
_LISTED = 30


def is_new(agent: Agent) -> bool:
    """Return whether an agent has not reported for long enough to count as a member of the fleet."""
    return agent.last_seen_at - agent.first_seen_at < SETTLED_MS


def crowd(agents: Sequence[Agent]) -> frozenset[str]:
    """Return the ids of the new agents that are not listed one by one: those that came last."""
    new = sorted((agent for agent in agents if is_new(agent)), key=lambda agent: (agent.first_seen_at, agent.ref))
    settled = len(agents) - len(new)
    return frozenset(agent.agent_id for agent in new[max(_LISTED - settled, settled // 2) :])
