"""Is a message of this time, and is it new: the skew rule and the window of ticks and nonces.

May live here: the two rules as pure functions of values. Not here: where a window is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from kattila_protocol.errors import ClockSkew

# The seed's promises: ten minutes, and 120 entries.
MAX_SKEW_MS = 10 * 60 * 1000
WINDOW_SIZE = 120


class Freshness(Enum):
    """What a window says of a message: never seen, the very same one, or a used tick or nonce."""

    FRESH = auto()
    DUPLICATE = auto()
    REPLAY = auto()


@dataclass(frozen=True, slots=True)
class Window:
    """The last 120 (tick, nonce) that were accepted from one agent, ascending by tick."""

    entries: tuple[tuple[int, str], ...] = ()

    def judge(self, tick: int, nonce: str) -> Freshness:
        """Judge a message by its tick and nonce.

        Newer than the highest tick: fresh. In the window with neither its tick nor its nonce seen: fresh, it came
        late. Both seen together: a duplicate. Anything else, and all behind the window: a replay.
        """
        if not self.entries or tick > self.entries[-1][0]:
            return Freshness.FRESH
        if is_behind(tick, self.entries[-1][0]):
            return Freshness.REPLAY
        if (tick, nonce) in self.entries:
            return Freshness.DUPLICATE
        seen = any(tick == seen_tick or nonce == seen_nonce for seen_tick, seen_nonce in self.entries)
        return Freshness.REPLAY if seen else Freshness.FRESH

    def add(self, tick: int, nonce: str) -> Window:
        """Return the window after accepting a message that it judged fresh."""
        return Window(tuple(sorted((*self.entries, (tick, nonce)))[-WINDOW_SIZE:]))


def is_behind(tick: int, highest_tick: int) -> bool:
    """Tell whether a tick lies behind the window that ends at `highest_tick`."""
    return tick <= highest_tick - WINDOW_SIZE


def check_skew(timestamp: int, now: int) -> None:
    """Raise ClockSkew if the two moments (ms UTC) are more than ten minutes apart."""
    offset = timestamp - now
    if abs(offset) > MAX_SKEW_MS:
        direction = "ahead of" if offset > 0 else "behind"
        raise ClockSkew(
            f"the clock is {abs(offset) / 1000:.1f} s {direction} the receiver's; "
            f"at most {MAX_SKEW_MS // 1000} s are allowed"
        )
