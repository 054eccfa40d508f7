"""One log line per change of state, and none while a state lasts."""

from __future__ import annotations

import logging

_log = logging.getLogger("kattila.agent")


class StateLog:
    """The last logged state of each subject. For one thread.

    Every subject starts in the normal state, which is the empty text: only its return to normal is worth a line.
    """

    def __init__(self) -> None:
        """Start with no subject in another than the normal state."""
        self.states: dict[str, str] = {}

    def note(self, subject: str, state: str, level: int, text: str) -> None:
        """Log `text` if the subject's state has changed.

        The text may contain details that vary within a state.
        """
        if self.states.get(subject, "") != state:
            self.states[subject] = state
            _log.log(level, "%s", text)
        else:
            _log.debug("still: %s", text)
