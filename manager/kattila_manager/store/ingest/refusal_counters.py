"""How often messages were refused, gathered in memory until the writer takes them along.

May live here: counting, bounded and cheap. Not here: the table (store). Nothing is keyed by an id that nobody
authenticated, so that a stranger cannot make it grow.
"""

from __future__ import annotations

import threading
from dataclasses import replace

from kattila_manager.records import RefusalCount
from kattila_protocol.errors import Refusal

# Kinds times agents that may wait for the writer; beyond it an agent's refusals count as nobody's.
_MAX_WAITING = 10_000


class Counters:
    """Counts since the last `take`; safe for several threads."""

    def __init__(self) -> None:
        """Begin with no counts."""
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str | None], RefusalCount] = {}

    def note(self, refusal: Refusal, agent_id: str | None, now: int) -> None:
        """Count one; `agent_id` only when the message's MAC was valid."""
        with self._lock:
            if len(self._counts) >= _MAX_WAITING:
                agent_id = None
            known = self._counts.get((refusal.kind, agent_id))
            self._counts[refusal.kind, agent_id] = (
                replace(known, count=known.count + 1, last_at=now, detail=refusal.detail)
                if known
                else RefusalCount(refusal.kind, agent_id, 1, now, now, refusal.detail)
            )

    def take(self) -> list[RefusalCount]:
        """Return the counts and begin anew."""
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
