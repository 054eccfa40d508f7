"""Keeps the loops of daemons running: logs a failure once, tries again after a pause, and logs when it works again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

# The pause of a loop after its first failure in a row. It doubles with each further one.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
# Different failures of one activity that are logged before it works again; further ones are only debug messages.
MAX_LOGGED = 10


def pause_after(failures: int) -> float:
    """Return how many seconds a loop pauses after this many failures in a row, from 1."""
    return float(min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 10)))


def described(error: BaseException, *, quoted: bool = True) -> str:
    """Return an unexpected error as one line: its type, its text if `quoted`, and where it was raised."""
    text = " ".join(str(error).split()) if quoted else ""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({Path(place.tb_frame.f_code.co_filename).name} line {place.tb_lineno})" if place else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


class Failures:
    """The activities of a daemon that fail at the moment. Safe for several threads.

    An activity is named by what it does, as in "writing the pages". Each different failure is logged once until the
    activity works again, which is logged too.
    """

    def __init__(self, log: logging.Logger) -> None:
        """Log to `log`. No activity has failed yet."""
        self._log = log
        self._lock = threading.Lock()
        self._logged: dict[str, list[str]] = {}

    @property
    def failing(self) -> tuple[str, ...]:
        """The activities that have failed and did not work since."""
        with self._lock:
            return tuple(self._logged)

    def failed(self, activity: str, text: str, *, level: int = logging.ERROR) -> None:
        """Log that an activity fails with this text, unless that was logged since it last worked."""
        with self._lock:
            logged = self._logged.setdefault(activity, [])
            is_news = text not in logged and len(logged) < MAX_LOGGED
            if is_news:
                logged.append(text)
        self._log.log(level if is_news else logging.DEBUG, "%s", text)

    def worked(self, activity: str, text: str = "") -> None:
        """Log that an activity works again, if it failed before."""
        # Without the lock, because this is called for every success.
        if activity not in self._logged:
            return
        with self._lock:
            has_failed = self._logged.pop(activity, None) is not None
        if has_failed:
            self._log.info("%s", text or f"{activity} works again")

    def guard(self, activity: str) -> Guard:
        """Return a context that logs an exception in its block as a failure of this activity, and suppresses it."""
        return Guard(self, activity)


class Guard:
    """The context of `Failures.guard`."""

    def __init__(self, failures: Failures, activity: str) -> None:
        """Guard one block of an activity."""
        self._failures = failures
        self._activity = activity

    def __enter__(self) -> Guard:
        """Begin the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Log how the block ended. Requests to end the process (KeyboardInterrupt, SystemExit) are not suppressed."""
        if error is None:
            self._failures.worked(self._activity)
            return False
        if not isinstance(error, Exception):
            return False
        self._failures.failed(self._activity, f"{self._activity} failed, and is tried again: {described(error)}")
        return True


def keep_running(step: Callable[[], bool], activity: str, failures: Failures, pause: Callable[[float], object]) -> None:
    """Call `step` until it returns False. If it raises, log that, `pause` for some seconds, and continue."""
    in_a_row = 0
    continues = True
    while continues:
        try:
            continues = step()
        except Exception as error:
            in_a_row += 1
            failures.failed(activity, f"{activity} failed, and is tried again: {described(error)}")
            pause(pause_after(in_a_row))
        else:
            in_a_row = 0
            failures.worked(activity)
