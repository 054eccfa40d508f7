"""One log line per change of state, none while a state lasts.

May live here: remembering what was said last of each subject.
"""

from __future__ import annotations

import logging

_log = logging.getLogger("kattila.agent")


class Changes:
    """What was last said of each subject. For one thread."""

    def __init__(self) -> None:
        """Begin with nothing said."""
        self._states: dict[str, str] = {}

    def note(self, subject: str, state: str, level: int, text: str) -> None:
        """Log `text` if the subject's state is another than before; the text may hold what varies within a state."""
        if self._states.get(subject) != state:
            self._states[subject] = state
            _log.log(level, "%s", text)
        else:
            _log.debug("still: %s", text)

    def was_said(self, subject: str) -> bool:
        """Tell whether the subject's state is one that there is something to say of."""
        return bool(self._states.get(subject))
