"""`kattila-manager backup` and `restore`, as separate processes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kattila_manager.store import database
from kattila_manager.store.admin import backups
from kattila_manager.store.admin.backups import BackupError
from support.commands import failed, run
from support.fleet import Fleet, fleet_in
from support.manager import MANAGER, Manager, now_ms, running_manager
from support.reports import PSK, body, node, nonce_of, report
from support.service_folder import folder_of_service, open_path
from support.small_disk import fill, small_disk
from support.store import sqlite
from support.waiting import wait_for

__all__ = ["open_path"]

ONE = node(1)
SCHEMA = database.revisions()[-1]
NAME = f"kattila_manager-*-schema-{SCHEMA}.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "backups"
    made.mkdir()
    return made


@pytest.fixture
def manager(tmp_path: Path, folder: Path) -> Manager:
    return Manager(tmp_path, BACKUP_DIR=str(folder))


@pytest.fixture
def fleet(manager: Manager) -> Iterator[Fleet]:
    with fleet_in(manager.folder) as made:
        for sample in range(1, 40):
            made.file(report(ONE, sample, now_ms()))
        yield made


@pytest.fixture
def filled(manager: Manager) -> Path:
    """Return the path of a database that no process has open."""
    with fleet_in(manager.folder) as made:
        for sample in range(1, 40):
            made.file(report(ONE, sample, now_ms()))
    return made.database


def dump(path: Path) -> list[str]:
    with sqlite(path) as connection:
        return list(connection.iterdump())


# --- backup


def test_a_backup_is_complete_and_named_after_time_and_schema(manager: Manager, fleet: Fleet, folder: Path) -> None:
    made = json.loads(run(manager, "backup", "--json").stdout)
    [path] = folder.glob(NAME)
    assert made["file"] == str(path)
    assert (made["schema"], made["bytes"], made["removed"]) == (SCHEMA, path.stat().st_size, [])
    assert dump(path) == dump(manager.database)
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(folder.iterdir()) == [path], "it is one file"


def test_backups_are_beside_the_database_by_default(tmp_path: Path) -> None:
    with fleet_in(tmp_path):
        assert f"{tmp_path}/kattila_manager-" in run(Manager(tmp_path), "backup").stdout
    assert len(list(tmp_path.glob(NAME))) == 1


def test_a_backup_contains_no_key(manager: Manager, fleet: Fleet, folder: Path) -> None:
    shown = run(manager, "backup", str(folder / "mine.db"))
    assert PSK not in (folder / "mine.db").read_bytes()
    assert PSK.decode() not in shown.stdout + shown.stderr
    assert "Backups do not include the key ring" in " ".join(run(manager, "backup", "--help").stdout.split())


def test_reports_are_accepted_during_a_backup_which_is_consistent(
    manager: Manager, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A commit follows every step of the copy, which must neither wait nor start over.
    before, filed = dump(manager.database), 0
    target = manager.folder / "copy.db"
    monkeypatch.setattr(backups, "_STEP_PAGES", 4)
    monkeypatch.setattr(backups, "_REPORTED_BYTES", 1)

    def file_one(_line: str) -> None:
        nonlocal filed
        filed += 1
        fleet.file(report(ONE, 1000 + filed, now_ms()))

    backups.make(manager.database, manager.folder, now_ms(), file_one, target)
    assert filed > 5
    assert dump(target) == before


def test_keep_removes_only_older_backups_of_this_database(manager: Manager, fleet: Fleet, folder: Path) -> None:
    old = [folder / f"kattila_manager-2026010{day}T000000Z-schema-{schema}.db" for day, schema in enumerate("aab", 1)]
    others = [
        folder / "notes.db",
        folder / "other-20260101T000000Z-schema-0001.db",
        folder / f"kattila_manager-20269901T000000Z-schema-{SCHEMA}.db",
    ]
    for path in old + others:
        path.touch()
    removed = json.loads(run(manager, "backup", "--keep", "1", "--json").stdout)["removed"]
    # A downgrade needs the newest backup of each schema.
    assert removed == [str(old[0])]
    assert {path for path in old + others if path.exists()} == {*old[1:], *others}
    assert len(list(folder.glob(NAME))) == 1 + 1


@pytest.mark.parametrize("arguments", [["--keep", "0"], ["x.db", "--keep", "1"], ["--keep", "x"]])
def test_a_wrong_call_of_backup(manager: Manager, arguments: list[str]) -> None:
    assert "usage: " in run(manager, "backup", *arguments, code=2).stderr


def test_a_missing_folder_is_an_error(manager: Manager, fleet: Fleet, folder: Path) -> None:
    folder.rmdir()
    assert f"the folder {folder} does not exist: create it" in failed(manager, "backup")


def test_an_existing_file_is_not_replaced(manager: Manager, fleet: Fleet, folder: Path) -> None:
    mine = folder / "mine.db"
    mine.write_text("precious")
    assert "mine.db exists: remove it, or choose another name" in failed(manager, "backup", str(mine))
    assert mine.read_text() == "precious"
    assert list(folder.iterdir()) == [mine]


def test_a_copy_that_does_not_fit_is_not_started(manager: Manager, filled: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 32) as disk:
        message = failed(manager, "backup", str(disk / "b.db"))
        assert re.search(rf"a copy needs 0\.\d MiB, and {disk} has 0.0 MiB left", message)
        assert list(disk.iterdir()) == []
        elsewhere = Manager(tmp_path, data_folder=disk, ring=None)
        assert f"{disk} has 0.0 MiB left: free some space" in failed(elsewhere, "restore", str(filled))
        assert not elsewhere.database.exists()


def test_a_disk_that_fills_is_an_error_and_leaves_no_file(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "_STEP_PAGES", 4)
    monkeypatch.setattr(backups, "_REPORTED_BYTES", 1)
    with small_disk(tmp_path / "small", 4096) as disk:
        with pytest.raises(BackupError, match=f"no space is left for a backup in {disk}"):
            backups.make(filled, disk, now_ms(), lambda _line: fill(disk / "ballast"))
        assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_a_backup_folder_without_write_permission_is_an_error(manager: Manager, fleet: Fleet) -> None:
    # Not even root can create a file there.
    message = failed(Manager(manager.folder, BACKUP_DIR="/proc"), "backup")
    assert "/proc " in message
    assert "set BACKUP_DIR to another folder" in message


@pytest.mark.parametrize("folder", ["/proc", "/proc/missing"])
def test_the_folder_of_a_named_file_is_no_setting(manager: Manager, fleet: Fleet, folder: str) -> None:
    message = failed(manager, "backup", f"{folder}/b.db")
    assert f"{folder} " in message
    assert "choose another folder" in message
    assert "BACKUP_DIR" not in message


def test_a_damaged_database_gives_no_backup(manager: Manager, folder: Path) -> None:
    with fleet_in(manager.folder) as made:
        for sample in range(1, 200):
            made.file(report(ONE, sample, now_ms()))
    content = bytearray(manager.database.read_bytes())
    content[-3 * 4096 : -2 * 4096] = b"\xff" * 4096
    manager.database.write_bytes(content)
    assert "is damaged" in failed(manager, "backup")
    assert list(folder.iterdir()) == []


def test_the_next_backup_removes_leftovers_of_a_killed_one(manager: Manager, fleet: Fleet, folder: Path) -> None:
    (folder / "kattila_manager.db.part").write_text("half")
    run(manager, "backup")
    assert [path.suffix for path in folder.iterdir()] == [".db"]


# --- restore


def test_a_restore_keeps_the_previous_database(manager: Manager, filled: Path, folder: Path) -> None:
    run(manager, "backup", str(folder / "b.db"))
    before = dump(manager.database)
    with fleet_in(manager.folder) as fleet:
        fleet.file(report(ONE, 77, now_ms()))
    after = dump(manager.database)
    manager.database.chmod(0o600)
    done = json.loads(run(manager, "restore", str(folder / "b.db"), "--json").stdout)
    assert dump(manager.database) == before
    assert dump(Path(done["kept"])) == after
    assert manager.database.stat().st_mode & 0o777 == 0o600
    assert not list(manager.folder.glob("*.part*"))


def test_a_restore_keeps_the_log_of_a_broken_database(manager: Manager, folder: Path) -> None:
    with fleet_in(manager.folder):
        run(manager, "backup", str(folder / "b.db"))
    manager.database.write_bytes(b"broken" * 1000)
    log = manager.database.with_name("kattila_manager.db-wal")
    log.write_bytes(b"a log")
    done = json.loads(run(manager, "restore", str(folder / "b.db"), "--json").stdout)
    assert Path(done["kept"]).read_bytes() == b"broken" * 1000
    assert dump(manager.database) == dump(folder / "b.db")


def test_a_restore_on_a_clean_machine(manager: Manager, fleet: Fleet, folder: Path, tmp_path: Path) -> None:
    run(manager, "backup", str(folder / "b.db"))
    clean = tmp_path / "clean"
    clean.mkdir()
    elsewhere = Manager(clean, ring=None, BACKUP_DIR=str(folder))
    shown = run(elsewhere, "restore", str(folder / "b.db")).stdout
    assert "there was no previous database" in shown
    assert "gets the key from DNS again" in shown
    assert dump(elsewhere.database) == dump(manager.database)


def test_a_restore_reads_a_backup_in_a_read_only_folder(manager: Manager, filled: Path, folder: Path) -> None:
    run(manager, "backup")
    folder.chmod(0o555)
    assert f"schema {SCHEMA}" in run(manager, "restore", "--latest").stdout
    folder.chmod(0o755)


def test_a_restore_is_refused_while_serve_or_publish_run(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        run(manager, "backup", str(tmp_path / "b.db"))
        assert "is in use: stop 'kattila-manager serve'" in failed(manager, "restore", str(tmp_path / "b.db"))
        publisher = subprocess.Popen(
            [*MANAGER, "publish", "--every", "0.2"],
            cwd=tmp_path,
            env=manager.environment,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for((tmp_path / "pages" / "index.html").exists, "the pages")
            manager.kill()
            assert "is in use" in failed(manager, "restore", str(tmp_path / "b.db"))
        finally:
            publisher.kill()
            publisher.wait()
        run(manager, "restore", str(tmp_path / "b.db"))


def test_a_database_cannot_be_opened_during_a_restore(manager: Manager, filled: Path) -> None:
    with database.closed_to_others(manager.database):
        assert "is being restored: try again" in failed(manager, "agents")
        assert "is being restored: try again" in failed(manager, "serve")
    run(manager, "agents")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"these are notes, and no database " * 200, "is damaged, or not an SQLite database"),
        (b"", "is not a database of kattila-manager"),
        (None, "cannot be read (No such file"),
    ],
)
def test_a_restore_of_another_file_is_refused(
    manager: Manager, filled: Path, folder: Path, content: bytes | None, words: str
) -> None:
    before = dump(manager.database)
    file = folder / "b.db"
    if content is not None:
        file.write_bytes(content)
    assert words in failed(manager, "restore", str(file))
    assert dump(manager.database) == before
    assert not list(manager.folder.glob("*before*"))


def test_a_restore_of_a_broken_or_a_newer_backup_is_refused(manager: Manager, folder: Path) -> None:
    with fleet_in(manager.folder) as fleet:
        for sample in range(1, 200):
            fleet.file(report(ONE, sample, now_ms()))
        run(manager, "backup", str(folder / "b.db"))
    content = bytearray((folder / "b.db").read_bytes())
    content[-3 * 4096 : -2 * 4096] = b"\xff" * 4096
    (folder / "broken.db").write_bytes(content)
    assert "is damaged" in failed(manager, "restore", str(folder / "broken.db"))
    with sqlite(folder / "b.db") as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    message = failed(manager, "restore", str(folder / "b.db"), code=3)
    assert "made by a newer version of kattila-manager (its schema is 9999" in message
    assert not list(manager.folder.glob("*before*"))


def test_restore_latest_without_a_backup(manager: Manager, filled: Path, folder: Path) -> None:
    assert f"{folder} has no backup" in failed(manager, "restore", "--latest")


def test_a_backup_of_a_running_manager_has_all_answered_reports(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        for sample in range(1, 20):
            verdict = manager.post(body(ONE, sample, now_ms())).verdict(nonce_of(ONE, sample, sample))
            assert verdict.outcome == "accepted"
        run(manager, "backup", str(tmp_path / "b.db"))
    with sqlite(tmp_path / "b.db") as connection:
        assert connection.execute("SELECT count(*) FROM reports").fetchone() == (19,)


def test_a_backup_goes_to_stdout_and_is_restored_from_stdin(manager: Manager, tmp_path: Path) -> None:
    with fleet_in(manager.folder) as fleet:
        fleet.file(report(ONE, 1, now_ms()))
    copy = tmp_path / "copy.db"
    with copy.open("wb") as target:
        made = subprocess.run(
            [*MANAGER, "backup", "-"],
            cwd=tmp_path,
            env=manager.environment,
            stdout=target,
            stderr=subprocess.PIPE,
            check=True,
        )
    assert b"stdout: schema " in made.stderr
    with sqlite(copy) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        reports = connection.execute("SELECT count(*) FROM reports").fetchone()
    manager.database.write_bytes(b"damaged")
    for content, code in ((copy.read_bytes(), 0), (copy.read_bytes()[:-5000], 1), (b"", 1)):
        done = subprocess.run(
            [*MANAGER, "restore", "-"],
            cwd=tmp_path,
            env=manager.environment,
            input=content,
            capture_output=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        with sqlite(manager.database) as connection:
            assert connection.execute("SELECT count(*) FROM reports").fetchone() == reports
    assert not list(manager.database.parent.glob("*.part"))


def test_root_makes_no_backup_in_a_folder_of_another_user(manager: Manager, fleet: Fleet, open_path: Path) -> None:
    folder = folder_of_service(open_path)
    message = failed(manager, "backup", str(folder / "mine.db"))
    assert f"{folder} belongs to nobody, who could make root overwrite other files" in message
    assert list(folder.iterdir()) == []
