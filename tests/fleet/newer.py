"""The agent's files of a newer version, made from those that are there: the same program under another name."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from build_agent import zipped

VERSION = "9.0.0"


def newer_agents(built: Path, target: Path) -> Path:
    """Make them, and return their folder."""
    target.mkdir(exist_ok=True)
    for path in built.glob("agent-*"):
        with zipfile.ZipFile(path) as source:
            files = {name: source.read(name) for name in source.namelist()}
        name = "kattila_agent/__init__.py"
        files[name] = re.sub(rb'__version__ = ".*"', f'__version__ = "{VERSION}"'.encode(), files[name])
        (target / path.name).write_bytes(zipped(files))
    return target
