"""A test's folder is its owner's alone; what another user does in it needs the way there."""

from __future__ import annotations

import tempfile
from pathlib import Path


def let_everybody_in(folder: Path) -> None:
    """Let every user pass through the folders that lead to this one, and see what is in it."""
    for each in (folder, *folder.parents):
        if each == Path(tempfile.gettempdir()):
            return
        each.chmod(each.stat().st_mode | 0o755)
    raise AssertionError(f"{folder} is no folder of a test")
