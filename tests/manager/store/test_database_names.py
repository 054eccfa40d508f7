"""Databases, backups and installations whose paths contain characters with a meaning in URLs and templates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kattila_manager
from kattila_manager.store import database
from kattila_manager.store.admin import backups, migrating, restoring
from kattila_manager.store.read import queries
from kattila_manager.store.store import open_existing
from support.commands import run
from support.fleet import fleet_in
from support.manager import now_ms, running_manager
from support.reports import body, node, report
from support.store import copy_rows, older_database, sqlite

ONE, TWO = node(1), node(2)
NAMES = [
    "fleet?north.db",
    "fleet?mode=memory&cache=shared",
    "fleet%20north.db",
    "fleet%3Fnorth.db",
    "100%.db",
    "fleet#north.db",
    "fleet north+south.db",
    "file:fleet.db",
    "file:fleet.db?mode=ro",
    ":memory:",
    "sqlite:",
    "user:password@host",
    "%(here)s.db",
    "flotte-süd.db",
    os.fsdecode(b"flotte-s\xfcd.db"),
    "a;b'c\"d\\e.db",
]


def files_in(folder: Path) -> set[str]:
    """Return the names of the databases in a folder: files that are neither locks nor logs."""
    kinds = (".lock", ".open", ".backup", ".publishing", "-wal", "-shm")
    return {path.name for path in folder.iterdir() if path.is_file() and not path.name.endswith(kinds)}


def agents_in(path: Path) -> list[str]:
    """Return the agents in a database, read from a copy with an ordinary name."""
    copy = path.parent / "plain" / "copy.db"
    copy.parent.mkdir(exist_ok=True)
    for suffix in ("", "-wal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            shutil.copyfile(source, copy.with_name(copy.name + suffix))
    with sqlite(copy) as connection:
        names = [name for (name,) in connection.execute("SELECT agent_id FROM agents ORDER BY ref")]
    shutil.rmtree(copy.parent)
    return names


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_database_is_the_file_of_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    migrating.migrate(path, tmp_path, 0)
    assert files_in(tmp_path) == {name}
    (tmp_path / "other").mkdir()
    with fleet_in(tmp_path / "other") as fleet:
        fleet.file(report(ONE, 1, now_ms()))
        copy_rows(fleet.database, path)
    database.check(path)
    assert files_in(tmp_path) == {name}
    assert agents_in(path) == [ONE.agent_id]
    store = open_existing(path)
    assert [agent.agent_id for agent in store.read(queries.all_agents)] == [ONE.agent_id]
    store.close()


def test_names_with_a_common_beginning_are_two_databases(tmp_path: Path) -> None:
    north, south = tmp_path / "fleet?north.db", tmp_path / "fleet?south.db"
    for path in (north, south):
        migrating.migrate(path, tmp_path, 0)
    assert files_in(tmp_path) == {north.name, south.name}


def test_dots_and_links_in_a_path_mean_what_they_mean_to_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "disk" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "data")
    migrating.migrate(tmp_path / "link" / ".." / "fleet.db", tmp_path, 0)
    assert files_in(tmp_path / "disk") == {"fleet.db"}
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_backups_and_restores_use_the_files_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with fleet_in(folder) as fleet:
        fleet.file(report(ONE, 1, now_ms()))
    path = fleet.database.rename(folder / name)
    # With relative names, "file:" and ":memory:" come first.
    monkeypatch.chdir(folder)
    made = backups.make(path, folder, now_ms(), print)
    copied = backups.make(path, folder, now_ms(), print, Path(f"{name}.copy"))
    assert files_in(folder) == {name, f"{name}.copy", made.path.name}
    assert [backup.path for backup in backups.found(path, folder)] == [made.path]
    for backup in (made, copied):
        path.write_bytes(b"damaged")
        kept = restoring.restore(backup.path, path, now_ms(), print).kept
        assert kept is not None
        assert kept.read_bytes() == b"damaged"
        kept.unlink()
        assert agents_in(path) == [ONE.agent_id]
    assert files_in(folder) == {name, f"{name}.copy", made.path.name}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_an_older_database_is_backed_up_and_migrated_in_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    # pytest-xdist cannot transfer a logged name that is not UTF-8.
    caplog.set_level("ERROR", "kattila.store")
    path = older_database(tmp_path, "0001").rename(tmp_path / name)
    (tmp_path / f"backups {name}").mkdir()
    migrating.migrate(path, tmp_path / f"backups {name}", 0)
    assert database.revision_of(path) == database.revisions()[-1]
    assert files_in(tmp_path) == {name}
    [backup] = (tmp_path / f"backups {name}").iterdir()
    assert database.revision_of(backup) == "0001"


def test_a_server_uses_the_file_of_that_name(tmp_path: Path) -> None:
    folder = tmp_path / "a?b%20c#d"
    folder.mkdir()
    for name, sender in (("fleet?north.db", ONE), ("fleet?south.db", TWO)):
        with running_manager(folder, MANAGER_DB=name) as manager:
            assert manager.post(body(sender, 1, now_ms())).status == 200
            run(manager, "publish", "--once")
        assert agents_in(folder / name) == [sender.agent_id]
    assert not list(folder.glob("fleet"))


@pytest.mark.parametrize("name", ["100%", "%(here)s", "a?b#c%20d", "versions:x"])
def test_a_manager_in_any_folder_migrates(tmp_path: Path, name: str) -> None:
    installed = tmp_path / name
    shutil.copytree(Path(kattila_manager.__file__).parent, installed / "kattila_manager")
    code = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1]); "
        "from kattila_manager.store import database; from kattila_manager.store.admin import migrating; "
        "assert str(database.MIGRATIONS).startswith(sys.argv[1]); "
        "migrating.migrate(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[2]).parent, 0)"
    )
    path = tmp_path / "m.db"
    subprocess.run([sys.executable, "-c", code, str(installed), str(path)], check=True)
    assert database.revision_of(path) == database.revisions()[-1]
