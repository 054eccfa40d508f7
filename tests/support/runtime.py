"""The clocks of a measurement: the real ones, or fixed ones."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from kattila_agent.runtime import Runtime


def runtime(
    now: Callable[[], int] = lambda: time.time_ns() // 1_000_000, monotonic: Callable[[], float] = time.monotonic
) -> Runtime:
    """Return the real clocks, with these ones instead."""
    return Runtime(
        now=now,
        monotonic=monotonic,
        since_boot_ms=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
        nonce=lambda: uuid.uuid4().hex,
        new_id=lambda: str(uuid.uuid4()),
        share=lambda: 0.5,
    )


# Not the time of anything else in a report.
FIXED_NOW = 5
FIXED = runtime(lambda: FIXED_NOW, lambda: 0.0)
REAL = runtime()
