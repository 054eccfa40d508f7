"""Missing, damaged, newer or read-only databases: every command reports them, and changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory

from kattila_manager.store import database
from kattila_manager.store.admin import migrating
from support.commands import failed
from support.fleet import Fleet, fleet_in
from support.manager import MANAGER, Manager
from support.waiting import PATIENCE_SECONDS


@pytest.mark.parametrize("command", ["agents", "alarms", "publish --once", "report x", "reset --all"])
def test_without_a_database_a_command_names_the_remedy(manager: Manager, command: str) -> None:
    assert "kattila-manager serve" in failed(manager, *command.split())
    assert not manager.database.exists()


def _newer(path: Path) -> None:
    migrating.migrate(path, path.parent, 0)
    with fleet_in(path.parent) as fleet:
        fleet.change("UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize(
    ("spoil", "words", "code"),
    [
        (lambda path: path.write_text("this is text, and more than enough of it. " * 100), "file is not a database", 1),
        (_newer, "made by a newer version of kattila-manager (its schema is 9999", 3),
        (lambda path: path.mkdir(), "cannot be used", 1),
    ],
)
def test_every_command_reports_the_problem_of_a_database(
    manager: Manager, spoil: object, words: str, code: int
) -> None:
    assert callable(spoil)
    spoil(manager.database)
    for command in ("serve", "agents"):
        assert words in failed(manager, command, code=code)


def test_serve_reports_a_missing_database_folder(tmp_path: Path) -> None:
    manager = Manager(tmp_path, MANAGER_DB=str(tmp_path / "missing" / "m.db"))
    message = failed(manager, "serve")
    assert f"the folder {tmp_path}/missing does not exist: create it" in message


def test_serve_reports_a_database_without_write_permission(manager: Manager, fleet: Fleet) -> None:
    without_override: list[str] = []
    if os.geteuid() == 0:
        # Root may write every file unless it lacks that capability.
        setpriv = shutil.which("setpriv") or pytest.skip("setpriv is missing: apt-get install util-linux")
        without_override = [setpriv, "--bounding-set", "-dac_override,-dac_read_search"]
    manager.database.chmod(0o444)
    manager.folder.chmod(0o555)
    done = subprocess.run(
        [*without_override, *MANAGER, "serve"],
        cwd="/",
        env=manager.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    manager.folder.chmod(0o755)
    assert done.returncode == 1
    assert f"{manager.database} cannot be used (Permission denied)" in done.stderr
    assert "uid" in done.stderr


def test_a_failed_migration_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE refusals (somebody_elses TEXT)")
    with pytest.raises(database.DatabaseUnusableError, match="already exists"):
        migrating.migrate(path, tmp_path, 0)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("refusals",)]


def test_a_migration_is_named_after_its_revision() -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(database.__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert [script.revision for script in scripts.walk_revisions()] == database.revisions()[::-1]
