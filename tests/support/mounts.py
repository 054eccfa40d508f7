"""Mounts file systems for tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(path: Path, kind: str, options: str, source: str = "none") -> Iterator[Path]:
    """Mount a file system on a new folder; skips the test without permission to mount."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system requires root")
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", kind, "-o", options, source, str(path)], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount a file system: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
