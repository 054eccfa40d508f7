"""The rules by which waiting samples are dropped: too old, or too many. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kattila_agent.spool.sample import Moment

# The block size of most file systems: the smallest file takes as much.
BLOCK_BYTES = 4096
# 2025-01-01T00:00:00Z. There was no agent before, so a clock that shows an earlier date was never set.
FIRST_DATE = 1_735_689_600_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A waiting sample without its telemetry (see Sample).

    `bytes` is the disk space of its file.
    """

    sampled_at: int
    boot_id: str
    since_boot_ms: int
    bytes: int


def disk_bytes(length: int) -> int:
    """Return the disk space of a file of this length: whole blocks, at least one.

    The kernel's number (st_blocks) cannot replace it: it differs between file systems, and some update it late.
    """
    return max(1, -(-length // BLOCK_BYTES)) * BLOCK_BYTES


def is_too_old(entry: Entry, moment: Moment, max_age_ms: int) -> bool:
    """Return whether a sample has waited too long.

    Within a boot CLOCK_BOOTTIME decides, even if the date was set meanwhile. For an earlier boot only dates can: if one
    of them was never set, or the clock went back, the age is unknown and the sample stays.
    """
    if entry.boot_id == moment.boot_id:
        return moment.since_boot_ms - entry.since_boot_ms > max_age_ms
    return entry.sampled_at >= FIRST_DATE and moment.now - entry.sampled_at > max_age_ms


def oldest(entries: Mapping[int, Entry], wanted: int) -> tuple[int, ...]:
    """Return the fewest of the lowest numbers whose files free `wanted` bytes.

    All numbers if that is not enough.
    """
    numbers: list[int] = []
    for number in sorted(entries):
        if wanted <= 0:
            break
        numbers.append(number)
        wanted -= entries[number].bytes
    return tuple(numbers)
