"""Signals as something that is waited for, and never missed.

May live here: taking note of a signal in whichever thread it comes. Not here: what follows from one.
"""

from __future__ import annotations

import os
import select
import signal

_WOKEN = 0


class Signals:
    """Some signals of this process; make one of it at most, in the main thread.

    A handler in Python runs only once the main thread comes back to Python. One that waits for a lock does not, if the
    kernel gives the signal to another thread (signal(7)) or just before the wait begins: a daemon then sleeps on until
    it is killed. So it is the interpreter's own handler that writes the number to a pipe (`signal.set_wakeup_fd`),
    in whatever thread, and the main thread waits for that.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        """Take note of these from now on, instead of what else they would do."""
        self._heard, self._said = os.pipe()
        os.set_blocking(self._said, False)
        signal.set_wakeup_fd(self._said, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _is_noted)

    def wait(self, seconds: float | None = None) -> signal.Signals | None:
        """Wait for the next one, however long; return None after so many seconds, or after `wake`."""
        ready, _, _ = select.select([self._heard], [], [], seconds)
        said = os.read(self._heard, 1)[0] if ready else _WOKEN
        return None if said == _WOKEN else signal.Signals(said)

    def wake(self) -> None:
        """End a wait, this one or the next; from any thread."""
        os.write(self._said, bytes((_WOKEN,)))


def _is_noted(_number: int, _frame: object) -> None:
    """Do nothing: without a handler the interpreter would note nothing."""
