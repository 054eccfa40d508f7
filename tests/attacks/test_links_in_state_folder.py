"""The service's user puts links into the folder of its files; root then runs a command, which must not follow them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kattila_agent.identity import Identity
from support.agent_folder import AGENT_ID, PSK, keep_id, keep_ring, settings
from support.agent_process import environment, running_daemon
from support.fleet import fleet_in
from support.knot import Knot, running_knot
from support.manager import Manager, now_ms, running_manager
from support.reports import node, report
from support.service_folder import USER, Victim, file_of_root, folder_of_service, give, link, open_path, program
from support.small_disk import small_disk
from support.waiting import PATIENCE_SECONDS

__all__ = ["open_path"]

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def knot() -> Iterator[Knot]:
    with running_knot() as running:
        yield running


@pytest.fixture
def state(open_path: Path) -> Path:
    """Return the state folder of an agent's user, with an id and a ring."""
    folder = folder_of_service(open_path)
    keep_id(folder)
    keep_ring(folder, PSK)
    give(folder)
    return folder


def run_agent(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*program("kattila_agent"), *arguments],
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.fixture
def manager(open_path: Path) -> Manager:
    """Return a manager whose database and pages belong to the service's user."""
    folder = folder_of_service(open_path)
    with fleet_in(folder) as fleet:
        fleet.file(report(node(1), 1, now_ms()))
    chosen = program("kattila_manager")
    made = Manager(open_path, data_folder=folder, program=chosen, PAGES_DIR=str(folder / "pages"))
    give(folder)
    return made


# --- The agent's state folder


@pytest.mark.parametrize("command", [["-dump", "-"], ["-reset"]], ids=["dump", "reset"])
def test_the_agents_ring_is_a_link(open_path: Path, knot: Knot, state: Path, command: list[str]) -> None:
    victim = file_of_root(open_path)
    (state / "ring.json").unlink()
    link(state / "ring.json", victim.path)
    run_agent(state, *command, **settings(knot, NOWHERE, PSK))
    victim.assert_untouched()


def test_the_agents_ring_has_a_second_name(open_path: Path, knot: Knot, state: Path) -> None:
    victim = file_of_root(open_path)
    (state / "ring.json").unlink()
    # Where fs.protected_hardlinks is 0, every user can do this.
    os.link(victim.path, state / "ring.json")
    run_agent(state, "-dump", "-", **settings(knot, NOWHERE, PSK))
    victim.assert_untouched()


def test_the_agents_id_is_a_link_to_a_secret(open_path: Path, knot: Knot, state: Path) -> None:
    secret = file_of_root(open_path, b"root:$6$secret", mode=0o600)
    (state / "agent_id.txt").unlink()
    link(state / "agent_id.txt", secret.path)
    found = run_agent(state, "-dump", "-", **settings(knot, NOWHERE, PSK))
    assert b"secret" not in found.stdout + found.stderr


def test_the_agents_counters_are_a_link_on_a_full_disk(open_path: Path) -> None:
    victim = file_of_root(open_path, json.dumps({"agent_id": AGENT_ID, "sample": 1, "tick": 1}).encode())
    with small_disk(open_path / "disk", 64) as disk:
        identity = Identity(disk, lambda: AGENT_ID)
        identity.take()
        (disk / "counters.json").unlink()
        link(disk / "counters.json", victim.path)
        with (disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
            while True:
                filler.write(bytes(4096))
        with pytest.raises(Exception, match="cannot use the state folder"):
            identity.take()
    victim.assert_untouched()


def test_the_agents_spool_is_a_link(open_path: Path, state: Path) -> None:
    folder = open_path / "of-root"
    folder.mkdir()
    (folder / "ledger.json.new").write_bytes(b"an unfinished file, which the spool would remove")
    (folder / "0000000000000001").write_bytes(b"a damaged sample, which the spool would drop")
    victim = Victim(folder)
    link(state / "spool", folder)
    chosen = program("kattila_agent")
    with running_daemon(
        open_path, program=chosen, STATE_DIR=str(state), DNS="kattila.example.org", MANAGER_URL=NOWHERE
    ) as daemon:
        daemon.wait_for_log("samples cannot be stored on disk")
    victim.assert_untouched()


def test_the_agents_state_folder_is_a_link(open_path: Path, knot: Knot, state: Path) -> None:
    folder = open_path / "of-root"
    folder.mkdir()
    victim = Victim(folder)
    link(state / "state", folder)
    run_agent(open_path, "-dump", "-", STATE_DIR=str(state / "state"), **settings(knot, NOWHERE, PSK))
    victim.assert_untouched()


def test_the_settings_in_the_working_folder_name_a_folder_of_root(open_path: Path, knot: Knot, state: Path) -> None:
    folder = open_path / "of-root"
    folder.mkdir()
    victim = Victim(folder)
    (state / ".env").write_text(f"STATE_DIR={folder}\n")
    give(state / ".env")
    run_agent(state, "-dump", "-", **settings(knot, NOWHERE, PSK))
    victim.assert_untouched()


def test_the_agents_ring_is_a_pipe(open_path: Path, knot: Knot, state: Path) -> None:
    (state / "ring.json").unlink()
    os.mkfifo(state / "ring.json")
    give(state / "ring.json")
    # It would wait for somebody to write to the pipe.
    assert run_agent(state, "-dump", "-", **settings(knot, NOWHERE, PSK)).returncode == 1


# --- The manager's folder


@pytest.mark.parametrize("command", [["keys"], ["check"], ["refresh-key"]], ids=lambda words: words[0])
def test_the_managers_ring_is_a_link(open_path: Path, manager: Manager, command: list[str]) -> None:
    victim = file_of_root(open_path)
    ring = manager.database.with_name("kattila_ring.json")
    ring.unlink()
    link(ring, victim.path)
    manager.command(*command)
    victim.assert_untouched()


@pytest.mark.parametrize("name", ["lock", "open", "publishing"])
def test_a_lock_file_of_the_database_is_a_link(open_path: Path, manager: Manager, name: str) -> None:
    # Root gave it to the owner of the database.
    victim = file_of_root(open_path, mode=0o600)
    lock = manager.database.with_name(f"kattila_manager.db.{name}")
    lock.unlink(missing_ok=True)
    link(lock, victim.path)
    manager.command("publish", "--once")
    victim.assert_untouched()


def test_the_database_is_a_link(open_path: Path, manager: Manager) -> None:
    theirs = open_path / "of-root"
    with closing(sqlite3.connect(theirs)) as connection:
        connection.execute("CREATE TABLE theirs (content)")
    theirs.chmod(0o600)
    victim = Victim(theirs)
    manager.database.unlink()
    link(manager.database, theirs)
    manager.command("agents")
    victim.assert_untouched()
    assert not theirs.with_name("of-root-wal").exists()


def test_the_database_is_a_link_when_a_backup_is_restored(open_path: Path, manager: Manager) -> None:
    victim = file_of_root(open_path)
    backup = open_path / "backup.db"
    shutil.copyfile(manager.database, backup)
    backup.chmod(0o644)
    manager.database.unlink()
    link(manager.database, victim.path)
    assert manager.command("restore", str(backup)).returncode == 1
    victim.assert_untouched()
    assert not list(open_path.glob("of-root.*"))


def test_the_folder_of_the_versions_of_the_pages_is_a_link(open_path: Path, manager: Manager) -> None:
    folder = open_path / "of-root"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "file").write_bytes(b"of root")
    victim = Victim(folder)
    pages = manager.database.with_name("pages")
    pages.mkdir()
    give(pages)
    link(pages / ".versions", folder)
    manager.command("publish", "--once")
    victim.assert_untouched()


def test_the_folder_of_the_pages_becomes_a_link(open_path: Path, manager: Manager) -> None:
    folder = open_path / "of-root"
    folder.mkdir()
    victim = Victim(folder)
    link(manager.database.with_name("pages"), folder)
    manager.command("publish", "--once")
    victim.assert_untouched()


def test_the_settings_in_the_working_folder_name_another_database(open_path: Path) -> None:
    folder = open_path / "of-root"
    folder.mkdir()
    victim = Victim(folder)
    service = folder_of_service(open_path)
    (service / ".env").write_text(f"MANAGER_DB={folder}/kattila_manager.db\n")
    give(service)
    command = [*program("kattila_manager"), "refresh-key"]
    given = {"DNS": "kattila.example.org", "DNS_SERVER": "127.0.0.1:9"}
    subprocess.run(command, cwd=service, env=environment(**given), timeout=PATIENCE_SECONDS, check=False)
    victim.assert_untouched()


# --- The pages


def serving(tmp_path: Path) -> Manager:
    pages = tmp_path / "pages"
    pages.mkdir()
    manager = Manager(tmp_path, READ_TOKEN="", PAGES_DIR=str(pages))
    with fleet_in(tmp_path) as fleet:
        fleet.file(report(node(1), 1, now_ms()))
    assert manager.command("publish", "--once").returncode == 0
    return manager


@pytest.mark.parametrize("place", ["leak.html", "leak/leak.html", ".current/leak.html", "index.html"])
def test_a_page_is_a_link_to_a_secret(tmp_path: Path, place: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "leak.html").write_bytes(b"the key ring, for example")
    pages = tmp_path / "pages"
    with running_manager(tmp_path, PAGES_DIR=str(pages)) as manager:
        assert manager.command("publish", "--once").returncode == 0
        target = pages / place
        target.unlink(missing_ok=True)
        if place == "leak/leak.html":
            target.parent.symlink_to(secret)
        else:
            target.symlink_to(secret / "leak.html")
        answer = manager.get(f"/{place}")
    assert b"the key ring" not in answer.body


def test_the_current_version_of_the_pages_is_a_link_to_a_folder_of_others(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "index.html").write_bytes(b"the key ring, for example")
    pages = tmp_path / "pages"
    with running_manager(tmp_path, PAGES_DIR=str(pages)) as manager:
        assert manager.command("publish", "--once").returncode == 0
        (pages / ".current").unlink()
        (pages / ".current").symlink_to(secret)
        answers = [manager.get(path) for path in ("/", "/index.html", "/.current/index.html")]
    assert [answer.status for answer in answers] == [404] * 3


def test_a_page_that_became_a_link_is_published_again(tmp_path: Path) -> None:
    # A web server would follow it.
    manager = serving(tmp_path)
    page = tmp_path / "pages" / "index.html"
    page.unlink()
    page.symlink_to("/etc/passwd")
    assert manager.command("publish", "--once").returncode == 0
    assert page.resolve().is_relative_to(tmp_path / "pages" / ".versions")


def test_programs_run_as_the_owner_of_their_folder(open_path: Path, manager: Manager, knot: Knot) -> None:
    done = manager.command("agents")
    assert done.returncode == 0
    assert "kattila-manager: runs as nobody, who owns " in done.stderr
    state = folder_of_service(open_path, "agent")
    found = run_agent(open_path, "-dump", "-", STATE_DIR=str(state), **settings(knot, NOWHERE, PSK))
    assert found.returncode == 0
    assert b"kattila-agent: runs as nobody, who owns " in found.stderr
    owners = {path.name: path.stat().st_uid for folder in (state, manager.database.parent) for path in folder.iterdir()}
    assert set(owners.values()) == {USER}


def test_a_folder_of_two_users_is_refused(open_path: Path, knot: Knot, state: Path) -> None:
    # Its owner could lead root, as the other user, into any folder of that user.
    inner = state / "inner"
    inner.mkdir()
    os.chown(inner, USER - 1, USER - 1)
    found = run_agent(open_path, "-dump", "-", STATE_DIR=str(inner), **settings(knot, NOWHERE, PSK))
    assert found.returncode == 1
    assert f"belong to nobody and uid {USER - 1}: run this as the one who uses it" in found.stderr.decode()
    assert list(inner.iterdir()) == []
