"""Gives other users access to a test's folder: pytest creates it for its owner only."""

from __future__ import annotations

import tempfile
from pathlib import Path


def make_world_readable(folder: Path) -> None:
    """Let every user read this folder and enter its parents."""
    for each in (folder, *folder.parents):
        if each == Path(tempfile.gettempdir()):
            return
        each.chmod(each.stat().st_mode | 0o755)
    raise AssertionError(f"{folder} is not in the temporary folder")
