"""Logs each change of a state once, and keeps the loops of daemons running: a failed step is tried after a pause."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class _Subject:
    """The state of a subject, and the texts logged since it was last normal."""

    state: str = ""
    logged: list[str] = field(default_factory=list)


class StateLog:
    """One log line per change of a subject's state, and none while a state lasts. Safe for several threads.

    Every subject starts in the normal state, which is the empty text.
    """

    def __init__(self, log: logging.Logger) -> None:
        """Log to `log`. Every subject is in the normal state."""
        self._log = log
        self._lock = threading.Lock()
        self._subjects: dict[str, _Subject] = {}

    def note(self, subject: str, state: str, level: int, text: str) -> None:
        """Log `text` if the subject's state has changed. The text may contain details that vary within a state."""
        with self._lock:
            before = self._subjects.pop(subject, _Subject()).state
            if state:
                self._subjects[subject] = _Subject(state)
        if state != before:
            self._log.log(level, "%s", text)
        else:
            self._log.debug("still: %s", text)


class Failures(StateLog):
    """The activities of a daemon that fail at the moment.

    An activity is named by what it does, as in "writing the pages". Each different failure is logged once until the
    activity works again, which is logged too.
    """

    @property
    def failing(self) -> tuple[str, ...]:
        """The activities that have failed and did not work since."""
        with self._lock:
            return tuple(self._subjects)

    @property
    def texts(self) -> tuple[str, ...]:
        """The newest failure of each of these activities."""
        with self._lock:
            return tuple(subject.state for subject in self._subjects.values())

    def failed(self, activity: str, text: str, *, level: int = logging.ERROR) -> None:
        """Log that an activity fails with this text, unless that was logged since it last worked."""
        with self._lock:
            subject = self._subjects.setdefault(activity, _Subject())
            subject.state = text
            is_news = text not in subject.logged and len(subject.logged) < MAX_LOGGED
            if is_news:
                subject.logged.append(text)
        self._log.log(level if is_news else logging.DEBUG, "%s", text)

    def worked(self, activity: str, text: str = "") -> None:
        """Log that an activity works again, if it failed before."""
        # Without the lock, because this is called for every success.
        if activity not in self._subjects:
            return
        self.note(activity, "", logging.INFO, text or f"{activity} works again")

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
