"""Wait for another thread or process, on a machine that may be slow.

Tests do not assert that something was fast. They wait for a condition; the deadline only ends a test that hangs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

# Enough on a machine with five times as many busy processes as processors.
PATIENCE_SECONDS = 120.0
# The timeout of the code under test if the test shows that it does not wait for it.
ENDLESS_SECONDS = 600.0

_Found = TypeVar("_Found")


def wait_for(
    condition: Callable[[], _Found], what: str | Callable[[], str], seconds: float = PATIENCE_SECONDS
) -> _Found:
    """Wait until the condition returns a true value, and return that value.

    `what` describes the condition for the failure message. A function may add details, such as a log.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)
    return found


def join_all(threads: Iterable[threading.Thread], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until all threads have ended; fail if one is still running."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), f"{thread.name} still runs after {seconds:g} s"


@contextmanager
def not_waiting_for(what: str) -> Iterator[None]:
    """Fail if the block runs longer than PATIENCE_SECONDS; a wait for `what` would take ENDLESS_SECONDS."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < PATIENCE_SECONDS, f"it took {took:.0f} s: did it wait for {what}?"
