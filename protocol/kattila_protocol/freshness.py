"""The rules for times and numbers: clock skew, possible numbers, and the window of accepted ticks and nonces.

See docs/PROTOCOL.md, "Freshness".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from kattila_protocol.errors import ClockSkew, NumbersTooHigh

MAX_SKEW_MS = 10 * 60 * 1000
WINDOW_SIZE = 120
# 2025-01-01T00:00:00Z. There was no agent before.
FIRST_DATE = 1_735_689_600_000
# The highest possible number while a clock was never set: 30 years of one number per second.
LEAST_LIMIT = 1_000_000_000
# How far a number may exceed the highest accepted one, besides one for each ms since that one.
MAX_JUMP = 1_000_000


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


def highest_possible(now: int) -> int:
    """Return the highest tick or sample that an agent can have reached at `now` (ms UTC): one per ms since 2025."""
    return max(LEAST_LIMIT, now - FIRST_DATE)


def check_numbers(tick: int, sample: int, highest: tuple[int, int], idle_ms: int, now: int) -> None:
    """Check that a message's numbers can have been reached at `now` (ms UTC).

    `highest` are the highest accepted tick and sample of the agent, 0 if there are none. `idle_ms` is the time since
    the highest tick was accepted.

    Raises:
        NumbersTooHigh: one of the numbers is above the highest possible one, or too far above the highest accepted one.
    """
    # This is `highest_possible`, inline because every report comes here.
    limit = max(LEAST_LIMIT, now - FIRST_DATE)
    for name, number, known in (("tick", tick, highest[0]), ("sample", sample, highest[1])):
        most = min(limit, known + MAX_JUMP + max(0, idle_ms)) if known else limit
        if number > most:
            raise NumbersTooHigh(f"{name} {number} is impossible: the highest is {known}, and at most {most} by now")


def check_skew(timestamp: int, now: int) -> None:
    """Raise ClockSkew if the sender's and the receiver's time (ms UTC) are more than ten minutes apart."""
    offset = timestamp - now
    if abs(offset) > MAX_SKEW_MS:
        direction = "ahead of" if offset > 0 else "behind"
        raise ClockSkew(
            f"the clock is {abs(offset) / 1000:.1f} s {direction} the receiver's; "
            f"at most {MAX_SKEW_MS // 1000} s are allowed"
        )
