"""Waits for Unix signals without missing any, whichever thread the kernel delivers them to."""

from __future__ import annotations

import os
import select
import signal

# Written to the pipe by `wake`; no signal has this number.
_WAKE = 0


class Signals:
    """The signals that a daemon waits for. Create at most one per process, in the main thread.

    A Python signal handler runs only when the main thread executes bytecode. While that thread waits for a lock, a
    signal that the kernel delivers to another thread (signal(7)), or just before the wait begins, does not end the
    wait. The interpreter's C handler has no such gap: it writes the signal number to a pipe (`signal.set_wakeup_fd`)
    in any thread, and the main thread waits for that pipe.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        """Start to collect these signals; their default action no longer happens."""
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _do_nothing)

    def wait(self, seconds: float | None = None) -> signal.Signals | None:
        """Return the next signal, or None after `wake` or after `seconds` (None: wait forever)."""
        ready, _, _ = select.select([self._read_end], [], [], seconds)
        number = os.read(self._read_end, 1)[0] if ready else _WAKE
        return None if number == _WAKE else signal.Signals(number)

    def wake(self) -> None:
        """End the current wait, or the next one; callable from any thread."""
        os.write(self._write_end, bytes((_WAKE,)))


def _do_nothing(_number: int, _frame: object) -> None:
    """Exist: the interpreter writes a signal to the pipe only if it has a Python handler."""
