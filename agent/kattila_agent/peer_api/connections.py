"""Decides which connections to the agent's API stay open: limits in total and for each source, and on waiting.

A full limit refuses nobody new. It closes the connection that has waited longest for its request. So connections
without a request harm only each other, and requests still arrive from the same address and from all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

# The pool of all sources that may not use the API. They get the health check only.
FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections there may be, and how long (seconds) one may wait for a head, or for a whole request.

    A neighbour has one connection. A hub that relays for many has some, and so has a machine behind NAT.
    """

    total: int = 200
    per_source: int = 50
    foreign: int = 10
    head_seconds: float = 10.0
    request_seconds: float = 30.0


class Waiting(Protocol):
    """One connection."""

    pool: str

    @property
    def waiting_since(self) -> float:
        """When it began to wait for a request; infinity while one is answered."""

    @property
    def has_head(self) -> bool:
        """Whether the head of the next request has arrived."""

    def handle_close(self) -> None:
        """Close it at once."""


class Connections:
    """The limits on the connections of one server. For the thread that accepts them."""

    def __init__(
        self, is_allowed: Callable[[str], bool], limits: Limits, opened: Callable[[], Sequence[Waiting]]
    ) -> None:
        """Take the sources that may use the API, the limits, and what lists the open connections."""
        self._is_allowed = is_allowed
        self._limits = limits
        self._opened = opened
        self._dismissed: list[Waiting] = []

    def pool_of(self, source: str) -> str:
        """Return the pool that a connection from this address counts in."""
        return source if self._is_allowed(source) else FOREIGN

    def make_room(self, pool: str) -> bool:
        """Dismiss an old connection if a limit is reached; return False if there is no room nevertheless."""
        staying = [each for each in self._opened() if each not in self._dismissed]
        mine = [each for each in staying if each.pool == pool]
        if len(mine) >= (self._limits.foreign if pool == FOREIGN else self._limits.per_source):
            return self._dismiss_oldest(mine)
        return len(staying) < self._limits.total or self._dismiss_oldest(staying)

    def dismiss_overdue(self, now: float) -> None:
        """Dismiss the connections that have waited too long for a head, or for the rest of a request."""
        for each in self._opened():
            seconds = self._limits.request_seconds if each.has_head else self._limits.head_seconds
            if now - each.waiting_since > seconds and each not in self._dismissed:
                self._dismissed.append(each)

    def close_dismissed(self) -> None:
        """Close the dismissed ones. Not while events are handled: a new socket could get the number of an old one."""
        while self._dismissed:
            self._dismissed.pop().handle_close()

    def _dismiss_oldest(self, channels: Iterable[Waiting]) -> bool:
        """Dismiss the connection that has waited longest; return False if all are busy with a request."""
        oldest = min(channels, key=lambda each: each.waiting_since)
        if oldest.waiting_since == math.inf:
            return False
        self._dismissed.append(oldest)
        return True
