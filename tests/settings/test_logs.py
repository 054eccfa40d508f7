"""Log lines: one for each record, whatever text of others it contains."""

from __future__ import annotations

import logging
import subprocess
import sys

from kattila_settings.logs import MAX_LINE, OneLineFormatter
from support.waiting import PATIENCE_SECONDS


def formatted(text: str, *, error: BaseException | None = None) -> str:
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("kattila", logging.WARNING, "file", 1, "%s", (text,), info)
    return OneLineFormatter("%(levelname)s %(message)s").format(record)


def test_a_record_is_one_line_without_control_characters() -> None:
    assert formatted("evil\x1b[2J\nINFO forged") == r"WARNING evil\u001b[2J\u000aINFO forged"


def test_a_long_record_is_cut() -> None:
    assert len(formatted("x" * 1_000_000)) == MAX_LINE


def test_a_traceback_has_its_lines() -> None:
    try:
        raise ValueError("evil\x1b\nINFO forged")
    except ValueError as error:
        first, *trace = formatted("failed", error=error).split("\n")
    assert first == "WARNING failed"
    assert trace[0] == "Traceback (most recent call last):"
    assert "ValueError: evil\\u001b" in trace


def test_programs_log_in_this_format() -> None:
    for module, function in (
        ("kattila_agent.__main__", "_log_to_stderr(debug=False)"),
        ("kattila_manager.compose", "log_to_stderr()"),
    ):
        code = f"import logging, {module} as m; m.{function}; logging.getLogger('kattila').warning('a\\x1b\\nb')"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
        )
        assert done.stderr.endswith("a\\u001b\\u000ab\n")
        assert done.stderr.count("\n") == 1
