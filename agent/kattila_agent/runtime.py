"""The clocks and the randomness of the process, as functions that a test can replace.

Only `__main__` binds the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Runtime:
    """The clocks and the randomness of one process.

    `now` returns ms UTC, `monotonic` seconds that never go back, `since_boot_ms` the reading of CLOCK_BOOTTIME; `nonce`
    returns 32 random lower-case hex digits, `new_id` a random UUID in lower case, `share` a random number from 0 to 1.
    """

    now: Callable[[], int]
    monotonic: Callable[[], float]
    since_boot_ms: Callable[[], int]
    nonce: Callable[[], str]
    new_id: Callable[[], str]
    share: Callable[[], float]
