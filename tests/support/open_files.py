"""How many files this process has open."""

from __future__ import annotations

from pathlib import Path


def open_files() -> int:
    """Return how many files, sockets among them, are open; the one that looks is counted too."""
    return len(list(Path("/proc/self/fd").iterdir()))
