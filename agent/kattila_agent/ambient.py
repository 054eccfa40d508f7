"""What comes from outside of every computation: clocks and chance, as functions that a test can choose.

May live here: the one value that carries them. They are bound to the real ones in `__main__` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ambient:
    """The clocks and the chance of one process.

    `now` is ms UTC, `monotonic` seconds that never go back, `since_boot_ms` what CLOCK_BOOTTIME says; `nonce` draws 32
    lower-case hex digits, `new_id` a random UUID in lower case, `share` a number from 0 to 1.
    """

    now: Callable[[], int]
    monotonic: Callable[[], float]
    since_boot_ms: Callable[[], int]
    nonce: Callable[[], str]
    new_id: Callable[[], str]
    share: Callable[[], float]
