"""Runs the real daemon without the wait between reports, so that an hour of reports takes seconds."""

from __future__ import annotations

import sys

from kattila_agent import daemon
from kattila_agent.__main__ import main


def _immediately(due: float, now: float, interval: float) -> float:  # noqa: ARG001 - replaces daemon.next_due
    return now


if __name__ == "__main__":
    daemon.JITTER = 0.0
    daemon.next_due = _immediately
    sys.exit(main([]))
