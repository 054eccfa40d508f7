"""One log line per change of state, and none while a state lasts."""

from __future__ import annotations

import logging

_log = logging.getLogger("kattila.agent")


class StateLog:
    """The last logged state of each subject. For one thread."""

    def __init__(self) -> None:
        """Start with every subject in the empty state, which is the normal one."""
        self._states: dict[str, str] = {}

    def note(self, subject: str, state: str, level: int, text: str) -> None:
        """Log `text` if the subject's state has changed; the text may contain details that vary within a state."""
        if self._states.get(subject) != state:
            self._states[subject] = state
            _log.log(level, "%s", text)
        else:
            _log.debug("still: %s", text)

    def is_abnormal(self, subject: str) -> bool:
        """Return whether the subject is in any other than the empty state."""
        return bool(self._states.get(subject))
