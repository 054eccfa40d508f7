"""Creates spools, and samples of a given size and time."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from kattila_agent.spool import Spool
from kattila_agent.spool.sample import Moment, Sample

BLOCK = 4096
DAY_SECONDS = 86_400
NOW = 1_760_000_000_000
BOOT = "b0000000-0000-4000-8000-000000000001"
OTHER_BOOT = "b0000000-0000-4000-8000-000000000002"
# Two hours after boot.
CLOCK = Moment(NOW, BOOT, 7_200_000)


def later(seconds: float, clock: Moment = CLOCK) -> Moment:
    """Return the clock after some seconds, without a step."""
    milliseconds = int(seconds * 1000)
    return replace(clock, now=clock.now + milliseconds, since_boot_ms=clock.since_boot_ms + milliseconds)


def sample(number: int, clock: Moment = CLOCK, blocks: int = 1) -> Sample:
    """Return the sample with this number, whose file takes `blocks` of 4 KiB."""
    noise = random.Random(number).randbytes(blocks * BLOCK - 2000)
    return Sample(number, clock.now, clock.boot_id, clock.since_boot_ms, noise)


def opened(folder: Path, blocks: int = 1000, max_age_seconds: int = DAY_SECONDS) -> Spool:
    """Open the spool in a folder; its limit is `blocks` of 4 KiB."""
    return Spool(folder, blocks * BLOCK, max_age_seconds)


def filled(folder: Path, *numbers: int, blocks: int = 1000) -> Spool:
    """Open a spool and add samples of one block each, measured a second apart."""
    spool = opened(folder, blocks)
    for number in numbers:
        clock = later(number)
        spool.put(sample(number, clock), clock)
    return spool


def reopened(spool: Spool, folder: Path, blocks: int = 1000) -> Spool:
    """Return the spool after a restart of the agent."""
    spool.close()
    return opened(folder, blocks)
