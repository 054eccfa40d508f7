"""Counts the open files of this process."""

from __future__ import annotations

from pathlib import Path


def open_files() -> int:
    """Return the number of open files, including sockets and the descriptor of this check."""
    return len(list(Path("/proc/self/fd").iterdir()))
