"""Which way this node's own reports go at the moment: what it tells its siblings, and where it sends their reports.

May live here: the one value that the reporting thread finds and the API's threads use, and lose where it fails them.
Not here: who may relay (discovery), or how a way is tried (delivery).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from kattila_agent.outbound.discovery import Relay


@dataclass(frozen=True, slots=True)
class Way:
    """A way that a report of this node went: to the manager itself (`relay` is None), or to a relay first."""

    relay: Relay | None

    @property
    def distance(self) -> int:
        """How many relays stand between this node and the manager."""
        return 0 if self.relay is None else self.relay.distance + 1

    @property
    def next_hop(self) -> str | None:
        """The id of the first of them; None for the manager."""
        return None if self.relay is None else self.relay.agent_id


class Ways:
    """The way that the newest report went, for as long as that is news. Safe for several threads."""

    def __init__(self, lasts_seconds: float) -> None:
        """Know none yet; `lasts_seconds` is how long one holds without being found anew."""
        self._lasts_seconds = lasts_seconds
        self._lock = threading.Lock()
        self._way: Way | None = None
        self._found_at = 0.0

    def current(self, now: float) -> Way | None:
        """Return the way at `now` (monotonic seconds), None if there is none, or none that is still known to work."""
        with self._lock:
            return self._way if now - self._found_at <= self._lasts_seconds else None

    def found(self, way: Way, now: float) -> None:
        """Remember that a report arrived this way."""
        with self._lock:
            self._way, self._found_at = way, now

    def lost(self, way: Way | None = None) -> None:
        """Forget a way by which a report did not arrive, unless another was found meanwhile; None: whichever it is."""
        with self._lock:
            if way is None or way == self._way:
                self._way = None
