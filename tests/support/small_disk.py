"""A file system of its own, so small that it fills."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from support.mounting import mounted


def small_disk(folder: Path, kilobytes: int) -> AbstractContextManager[Path]:
    """Mount a file system of its own; skips where that is not allowed."""
    return mounted(folder, "tmpfs", f"size={kilobytes}k")


def fill(ballast: Path) -> None:
    """Write a file until its file system is full."""
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 4096)
        except OSError:
            return
