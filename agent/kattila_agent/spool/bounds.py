"""Which samples have to go: too old, or too many.

May live here: what is remembered of a waiting sample, and rules over that, pure. Not here: dropping them (spool).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kattila_agent.spool.sample import Clock

# What most file systems give to files: the smallest takes as much.
BLOCK_BYTES = 4096
# 2025-01-01T00:00:00Z. A clock before that was never set (there was no agent then), and says nothing.
FIRST_DATE = 1_735_689_600_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A waiting sample without its telemetry (see Sample); `bytes` is what its file takes on the disk."""

    sampled_at: int
    boot_id: str
    since_boot_ms: int
    bytes: int


def on_disk(length: int) -> int:
    """Return what a file of this length (bytes) takes on the disk: whole blocks, at least one.

    Not what stat tells (st_blocks): that is known only after the file was written, and is another number on each file
    system, at times later than the write.
    """
    return max(1, -(-length // BLOCK_BYTES)) * BLOCK_BYTES


def is_too_old(entry: Entry, clock: Clock, max_age_ms: int) -> bool:
    """Tell whether a sample has waited for too long.

    Within a boot CLOCK_BOOTTIME tells, whatever the date was set to meanwhile. Of an earlier boot only dates tell:
    where one of them is none, or the clock went back, the age is unknown and nothing is too old.
    """
    if entry.boot_id == clock.boot_id:
        return clock.since_boot_ms - entry.since_boot_ms > max_age_ms
    return entry.sampled_at >= FIRST_DATE and clock.now - entry.sampled_at > max_age_ms


def oldest(entries: Mapping[int, Entry], wanted: int) -> tuple[int, ...]:
    """Return the fewest of the lowest numbers whose files take `wanted` bytes together; all, if they take less."""
    numbers: list[int] = []
    for number in sorted(entries):
        if wanted <= 0:
            break
        numbers.append(number)
        wanted -= entries[number].bytes
    return tuple(numbers)
