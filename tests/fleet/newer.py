"""Makes agent files with a newer version number from the built ones. The program is the same."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from build_agent import executable_zip

VERSION = "9.0.0"


def newer_agents(built: Path, target: Path) -> Path:
    """Make the newer agent files in `target`, and return that folder."""
    target.mkdir(exist_ok=True)
    for path in built.glob("agent-*"):
        with zipfile.ZipFile(path) as source:
            files = {name: source.read(name) for name in source.namelist()}
        name = "kattila_agent/__init__.py"
        files[name] = re.sub(rb'__version__ = ".*"', f'__version__ = "{VERSION}"'.encode(), files[name])
        (target / path.name).write_bytes(executable_zip(files))
    return target
