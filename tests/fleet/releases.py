"""Builds a manager release that is newer than the checkout, with a higher version and one more migration."""

from __future__ import annotations

import shutil
from pathlib import Path

from fleet.system import run

# Python of the nodes' Debian.
PYTHON = "3.11"
VERSION = "9.0.0"
REVISION = "9000"
SOURCES = ("protocol", "manager", "release", "report_templates", "requirements")
BUILT = shutil.ignore_patterns(".venv", "bin", "dist", "__pycache__")
MIGRATION = '''"""A migration that only this release has."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"


def upgrade() -> None:
    """Add a column."""
    op.add_column("agents", sa.Column("mood", sa.Text))
'''


def build_newer(checkout: Path, target: Path) -> Path:
    """Build the release from a copy of the sources in `target`, and return the folder with its tarballs."""
    for name in SOURCES:
        shutil.copytree(checkout / name, target / name, symlinks=True, ignore=BUILT)
    shutil.copy(checkout / "LICENSE", target)
    project = target / "manager/pyproject.toml"
    lines = project.read_text().splitlines()
    project.write_text("\n".join(f'version = "{VERSION}"' if line.startswith("version =") else line for line in lines))
    migrations = target / "manager/kattila_manager/store/migrations/versions"
    newest = max(path.name.partition("_")[0] for path in migrations.glob("[0-9]*.py"))
    (migrations / f"{REVISION}_later.py").write_text(MIGRATION.format(revision=REVISION, before=newest))
    arch = run(["dpkg", "--print-architecture"]).strip()
    words = ["--pythons", PYTHON, "--arches", arch, "--output", str(target / "built")]
    run([str(checkout / ".venv/bin/python"), str(target / "release/build_manager.py"), *words], seconds=120)
    return target / "built"
