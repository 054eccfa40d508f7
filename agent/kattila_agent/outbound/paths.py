"""The delivery path of this node's own reports: found by the reporting thread, used by the threads of the peer API."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from kattila_agent.outbound.discovery import Relay


@dataclass(frozen=True, slots=True)
class DeliveryPath:
    """A path on which a report arrived, through a relay unless `relay` is None."""

    relay: Relay | None

    @property
    def distance(self) -> int:
        """The number of relays between this node and the manager."""
        return 0 if self.relay is None else self.relay.distance + 1

    @property
    def next_hop(self) -> str | None:
        """The id of the first relay; None if the path leads straight to the manager."""
        return None if self.relay is None else self.relay.agent_id


class Uplink:
    """What this node knows about reaching the manager. Safe for several threads.

    `report_mac` is the MAC of the report that this node sent last, by which a relay recognises its own report.
    """

    def __init__(self, valid_seconds: float) -> None:
        """Start without a path.

        A path expires `valid_seconds` after the last report that arrived on it.
        """
        self.report_mac = ""
        self._valid_seconds = valid_seconds
        self._lock = threading.Lock()
        self._path: DeliveryPath | None = None
        self._found_at = 0.0
        self._busy_until = 0.0

    def path(self, now: float) -> DeliveryPath | None:
        """Return the path at `now` (monotonic seconds), None if it has expired."""
        with self._lock:
            return self._path if now - self._found_at <= self._valid_seconds else None

    def found(self, path: DeliveryPath, now: float) -> None:
        """Remember that a report arrived on this path."""
        with self._lock:
            self._path, self._found_at = path, now

    def lost(self, path: DeliveryPath | None = None) -> None:
        """Forget a path on which a report failed, unless another one was found since.

        None forgets any path.
        """
        with self._lock:
            if path is None or path == self._path:
                self._path = None

    def needs_relay(self, now: float) -> bool:
        """Return whether this node's reports need a relay to reach the manager."""
        path = self.path(now)
        return path is None or path.relay is not None

    def pause(self, seconds: float, now: float) -> None:
        """Remember that the manager asked for a pause."""
        self._busy_until = now + seconds

    def pause_seconds(self, now: float) -> float:
        """Return how much of the manager's pause is left, 0 if none."""
        return max(0.0, self._busy_until - now)
