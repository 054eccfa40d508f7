"""Every folder of modules has an import contract that refuses an unlisted module."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Alembic runs them; no module imports them.
MIGRATIONS = {"kattila_manager.store.migrations", "kattila_manager.store.migrations.versions"}


def folders_of_modules() -> set[str]:
    """Return the dotted names of all folders of our packages that contain more than `__init__.py`."""
    found = set()
    for distribution in ("protocol", "agent", "manager"):
        for module in (ROOT / distribution).glob("kattila_*/**/*.py"):
            if module.name != "__init__.py":
                found.add(".".join(module.parent.relative_to(ROOT / distribution).parts))
    return found


def test_every_folder_of_modules_has_an_exhaustive_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    covered = {name for each in contracts if each.get("exhaustive") for name in each["containers"]}
    folders = folders_of_modules()
    assert "kattila_agent.collectors.netlink" in folders
    assert folders - covered - MIGRATIONS == set()
    assert covered - folders == set()
