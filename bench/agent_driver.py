"""Runs the daemon in the agent's single file without the wait between reports: agent_driver.py FILE."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any
from zipimport import zipimporter


def _immediately(due: float, now: float, interval: float) -> float:  # noqa: ARG001 - replaces daemon.next_due
    return now


def main(file: str) -> int:
    """Run the daemon until it is stopped, and return its exit code."""
    sys.path.insert(0, file)
    import_module("onefile.libraries").load_from(zipimporter(file))
    daemon: Any = import_module("kattila_agent.daemon")
    daemon.JITTER, daemon.next_due = 0.0, _immediately
    code: int = import_module("kattila_agent.__main__").main([])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
