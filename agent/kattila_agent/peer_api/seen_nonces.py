"""The nonces of signed queries that were answered, so that none is answered twice.

Only this process's memory holds them, for as long as the skew limit: older queries are refused by their timestamp.
"""

from __future__ import annotations

import threading

from kattila_protocol.errors import Overloaded, Replay
from kattila_protocol.freshness import MAX_SKEW_MS

# A query may be signed this much ahead of the node's clock, and is valid until it is as much behind it.
KEPT_MS = 2 * MAX_SKEW_MS
# Enough for 500 neighbours with a query every 30 seconds, in about 3 MB.
MAX_NONCES = 20_000


class SeenNonces:
    """The nonces of the last twenty minutes. Safe for several threads."""

    def __init__(self, limit: int = MAX_NONCES) -> None:
        """Start empty; `limit` bounds the memory."""
        self._limit = limit
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, nonce: str, now: int) -> None:
        """Remember the nonce of an authentic query at `now` (ms UTC).

        Raises:
            Replay: it was seen before.
            Overloaded: more are remembered than memory is set aside for.
        """
        with self._lock:
            self._forget_before(now - KEPT_MS)
            if nonce in self._seen:
                raise Replay("this query was answered before")
            if len(self._seen) >= self._limit:
                raise Overloaded(f"{self._limit} queries within {KEPT_MS // 60_000} minutes", retry_after_seconds=60)
            self._seen[nonce] = now

    def _forget_before(self, moment: int) -> None:
        # In the order of arrival; a clock that went back only keeps them for longer.
        while self._seen:
            oldest = next(iter(self._seen))
            if self._seen[oldest] >= moment:
                return
            del self._seen[oldest]
