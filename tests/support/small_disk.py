"""A small file system that a test can fill."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from support.mounts import mounted


def small_disk(folder: Path, kilobytes: int) -> AbstractContextManager[Path]:
    """Mount a tmpfs of this size; skips the test without permission to mount."""
    return mounted(folder, "tmpfs", f"size={kilobytes}k")


def fill(ballast: Path) -> None:
    """Fill a file system with this file."""
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 4096)
        except OSError:
            return
