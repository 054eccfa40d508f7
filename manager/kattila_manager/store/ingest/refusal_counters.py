"""Counts refused messages in memory until the writer stores them.

Only authenticated ids are keys, so a stranger cannot make the counters grow.
"""

from __future__ import annotations

import threading
from dataclasses import replace

from kattila_manager.records import RefusalCount
from kattila_protocol.errors import Refusal, TooManyAgents

# Kinds times agents that may wait for the writer. Beyond it, refusals count for unknown senders.
_MAX_WAITING = 10_000


class RefusalCounters:
    """Counts since the last `take`; safe for several threads."""

    def __init__(self) -> None:
        """Start with no counts."""
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str | None], RefusalCount] = {}

    def note(self, refusal: Refusal, agent_id: str | None, now: int) -> None:
        """Count a refusal; pass `agent_id` only if the MAC was valid. New agents that have to wait count together."""
        with self._lock:
            if len(self._counts) >= _MAX_WAITING or isinstance(refusal, TooManyAgents):
                agent_id = None
            known = self._counts.get((refusal.kind, agent_id))
            self._counts[refusal.kind, agent_id] = (
                replace(known, count=known.count + 1, last_at=now, detail=refusal.detail)
                if known
                else RefusalCount(refusal.kind, agent_id, 1, now, now, refusal.detail)
            )

    def take(self) -> list[RefusalCount]:
        """Return the counts and start over."""
        with self._lock:
            counts, self._counts = list(self._counts.values()), {}
        return counts

    def put_back(self, counts: list[RefusalCount]) -> None:
        """Undo a `take` whose transaction failed."""
        with self._lock:
            for count in counts:
                key = (count.kind, count.agent_id)
                newer = self._counts.get(key)
                self._counts[key] = (
                    replace(newer, count=newer.count + count.count, first_at=count.first_at) if newer else count
                )
