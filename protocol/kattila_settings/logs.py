"""The format of log lines: each record is one line, whatever text of others it contains."""

from __future__ import annotations

import logging
import sys
from types import TracebackType

from kattila_protocol.foreign_text import shown, shown_lines

# Longer lines are cut. No text of this program is as long.
MAX_LINE = 4000

_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class OneLineFormatter(logging.Formatter):
    """Formats a record as one line of at most MAX_LINE characters; a traceback follows on further lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is the library's
        """Return the line, escaped and cut."""
        return shown(super().formatMessage(record), MAX_LINE)

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802 - the name is the library's
        """Return the traceback, each line escaped."""
        return shown_lines(super().formatException(ei))


def log_to_stderr(level: int, line_format: str, *, force: bool = False) -> None:
    """Log to stderr in this format; `force` replaces a logging that was set up before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter(line_format))
    logging.basicConfig(level=level, handlers=[handler], force=force)
