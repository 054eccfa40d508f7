"""The replay rules: clock skew, and the window of accepted ticks and nonces (docs/PROTOCOL.md, "Freshness")."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from kattila_protocol.errors import ClockSkew

MAX_SKEW_MS = 10 * 60 * 1000
WINDOW_SIZE = 120


class Freshness(Enum):
    """Whether a message is new, was accepted before, or reuses the tick or nonce of another message."""

    FRESH = auto()
    DUPLICATE = auto()
    REPLAY = auto()


@dataclass(frozen=True, slots=True)
class Window:
    """The last 120 (tick, nonce) that were accepted from one agent, in ascending order of ticks."""

    entries: tuple[tuple[int, str], ...] = ()

    def judge(self, tick: int, nonce: str) -> Freshness:
        """Return the freshness of a message.

        A tick above the highest one is fresh. So is a late message: one inside the window whose tick and nonce are both
        unused. A message whose tick and nonce were accepted together is a duplicate. All others are replays.
        """
        if not self.entries or tick > self.entries[-1][0]:
            return Freshness.FRESH
        if tick <= self.entries[-1][0] - WINDOW_SIZE:
            return Freshness.REPLAY
        if (tick, nonce) in self.entries:
            return Freshness.DUPLICATE
        is_used = any(tick == used_tick or nonce == used_nonce for used_tick, used_nonce in self.entries)
        return Freshness.REPLAY if is_used else Freshness.FRESH

    def add(self, tick: int, nonce: str) -> Window:
        """Return the window after it accepted a fresh message."""
        return Window(tuple(sorted((*self.entries, (tick, nonce)))[-WINDOW_SIZE:]))


def check_skew(timestamp: int, now: int) -> None:
    """Raise ClockSkew if the sender's and the receiver's time (ms UTC) are more than ten minutes apart."""
    offset = timestamp - now
    if abs(offset) > MAX_SKEW_MS:
        direction = "ahead of" if offset > 0 else "behind"
        raise ClockSkew(
            f"the clock is {abs(offset) / 1000:.1f} s {direction} the receiver's; "
            f"at most {MAX_SKEW_MS // 1000} s are allowed"
        )
