"""The operator's commands as processes of their own, on a database that a test filled."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory

from kattila_keys.ring_file import Kept
from kattila_manager.config import SETTINGS
from kattila_manager.store import database, migrating, reading
from kattila_protocol import canonical
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose
from support.fleet import HOUR, MINUTE, Fleet, damage, fleet_in
from support.knot import Knot, running_knot
from support.manager import MANAGER, Manager, now_ms
from support.reports import KEY, PSK, RING, node, report, ring_of

OLD_KEY = Key.from_psk(b"psk of the month before, protects nothing")
ONE, TWO, THREE, FOUR = node(1), node(2), node(3), node(4)
HOSTILE = "\x1b[2J\u202eevil"


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    """Commands in a folder with a ring of two keys."""
    return Manager(tmp_path, ring=ring_of(KEY, OLD_KEY))


@pytest.fixture
def fleet(manager: Manager) -> Iterator[Fleet]:
    """Its database, with three agents that reported a second ago."""
    now = now_ms()
    with fleet_in(manager.folder) as made:
        made.beat(now)
        for sender, key in ((ONE, KEY), (TWO, OLD_KEY), (THREE, KEY)):
            for sample in (1, 2):
                made.file(report(sender, sample, now - 3000 + 1000 * sample), key=key)
        yield made


def run(manager: Manager, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = manager.command(*arguments)
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert PSK.decode() not in done.stdout + done.stderr
    return done


def failed(manager: Manager, *arguments: str, code: int = 1) -> str:
    done = run(manager, *arguments, code=code)
    assert done.stdout == ""
    assert done.stderr.startswith("kattila-manager: ")
    return done.stderr


# --- The command line


def test_help_names_every_command_and_every_setting(manager: Manager) -> None:
    shown = run(manager, "--help").stdout
    names = "serve publish agents alarms report history reset keys refresh-key check backup restore"
    for name in names.split():
        assert f"    {name}" in shown
    for setting in SETTINGS:
        assert f"  {setting.name} " in shown
    assert "0 done, 1 failed, 2 wrong usage or configuration, 3 a newer version made the database" in shown


def test_version(manager: Manager) -> None:
    assert run(manager, "--version").stdout == "kattila-manager 0.1.0\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["publish", "--every", "0"],
        ["reset"],
        ["reset", "x", "--all"],
        ["report"],
        ["history"],
        ["history", "x", "--since", "yesterday"],
    ],
)
def test_a_wrong_call_exits_2(manager: Manager, arguments: list[str]) -> None:
    done = manager.command(*arguments)
    assert done.returncode == 2
    assert "usage: kattila-manager" in done.stderr


@pytest.mark.parametrize("place", ["before", "after"])
def test_settings_may_come_from_another_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "other.env").write_text("MANAGER_WORKERS=none\n")
    env = ["--env", "other.env"]
    arguments = [*env, "agents"] if place == "before" else ["agents", *env]
    done = subprocess.run(
        [*MANAGER, *arguments], cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "MANAGER_WORKERS=none (" in done.stderr
    assert "other.env line 1)" in done.stderr


def test_output_that_nobody_reads_to_its_end_is_no_crash(manager: Manager, fleet: Fleet) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as pipe:
        done = subprocess.run(
            [*MANAGER, "agents"],
            cwd=manager.folder,
            env=manager.environment,
            stdout=pipe,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b""


# --- Databases that cannot be used


@pytest.mark.parametrize("command", ["agents", "alarms", "publish --once", "report x", "reset --all"])
def test_without_a_database_a_command_says_what_makes_one(manager: Manager, command: str) -> None:
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
def test_serve_and_the_others_say_what_is_wrong_with_a_database(
    manager: Manager, spoil: object, words: str, code: int
) -> None:
    assert callable(spoil)
    spoil(manager.database)
    for command in ("serve", "agents"):
        assert words in failed(manager, command, code=code)


def test_serve_says_that_the_folder_of_the_database_is_missing(tmp_path: Path) -> None:
    manager = Manager(tmp_path, MANAGER_DB=str(tmp_path / "missing" / "m.db"))
    message = failed(manager, "serve")
    assert f"the folder {tmp_path}/missing does not exist: make it" in message


def test_serve_says_that_it_may_not_write_the_database(manager: Manager, fleet: Fleet) -> None:
    without_override: list[str] = []
    if os.geteuid() == 0:
        # Root may write anything, unless that capability is taken from it.
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
        timeout=30,
        check=False,
    )
    manager.folder.chmod(0o755)
    assert done.returncode == 1
    assert f"{manager.database} cannot be used (Permission denied)" in done.stderr
    assert "uid" in done.stderr


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE refusals (somebody_elses TEXT)")
    with pytest.raises(database.DatabaseUnusableError, match="already exists"):
        migrating.migrate(path, tmp_path, 0)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("refusals",)]


def test_a_migration_is_named_for_its_revision() -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(database.__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert [script.revision for script in scripts.walk_revisions()] == database.revisions()[::-1]


# --- serve


def test_serve_says_that_the_port_is_taken(manager: Manager) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", manager.port))
        taken.listen()
        message = failed(manager, "serve")
    assert f"cannot listen on 127.0.0.1:{manager.port}: the port is taken" in message
    assert "MANAGER_LISTEN" in message


def test_serve_says_that_an_address_is_not_of_this_machine(tmp_path: Path) -> None:
    manager = Manager(tmp_path, MANAGER_LISTEN="192.0.2.1:5086")
    assert "cannot listen on 192.0.2.1:5086: that is no address of this machine" in failed(manager, "serve")


def test_serve_without_dns_is_a_wrong_configuration(tmp_path: Path) -> None:
    manager = Manager(tmp_path, DNS="")
    assert "DNS is not set" in failed(manager, "serve", code=2)
    assert not manager.database.exists()


def test_serve_logs_where_it_listens_and_little_else(tmp_path: Path) -> None:
    with running_knot({"kattila": [PSK]}) as knot:
        manager = _with_dns(tmp_path, knot, "kattila", ring=RING)
        manager.start()
        assert manager.stop() == 0
    lines = manager.log.splitlines()
    assert f"INFO kattila.manager: listening on 127.0.0.1:{manager.port}, database {manager.database}" in lines
    assert len([line for line in lines if line.startswith("INFO kattila.manager: ")]) == 3
    assert not [line for line in lines if "granian" in line.lower()]


# --- publish


def test_publish_once_says_what_it_did(manager: Manager, fleet: Fleet) -> None:
    done = run(manager, "publish", "--once")
    assert done.stdout == (
        f"3 agents; 1 alarm opened, 0 closed; 1 page written to {manager.folder}/pages; 0 reports pruned\n"
    )
    assert "alarm opened: previous_key" in done.stderr
    assert "1 alarm is open." in (manager.folder / "pages" / "index.html").read_text()


def test_publish_once_that_fails_exits_1_and_says_why(manager: Manager, fleet: Fleet) -> None:
    (manager.folder / "pages").touch()
    done = run(manager, "publish", "--once", code=1)
    assert "rendering the pages failed" in done.stderr
    assert "correct PAGES_DIR" in done.stderr


def test_publish_waits_for_a_database_goes_on_and_stops_cleanly(manager: Manager) -> None:
    index = manager.folder / "pages" / "index.html"
    command = [*MANAGER, "publish", "--every", "0.2"]
    with subprocess.Popen(command, cwd=manager.folder, env=manager.environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            first = process.stderr.readline().decode()
            time.sleep(0.5)
            assert process.poll() is None
            assert not index.exists()
            with fleet_in(manager.folder) as fleet:
                fleet.beat(now_ms())
                _wait_for(index, "No agent has reported yet.")
                fleet.file(report(ONE, 1, now_ms()))
                _wait_for(index, "The only agent reports.")
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
        finally:
            process.kill()
        rest = process.stderr.read().decode()
    assert first.startswith("WARNING kattila.publish: waiting: there is no database of ")
    assert rest == ""


def _wait_for(page: Path, words: str) -> None:
    deadline = time.monotonic() + 10
    while not page.exists() or words not in page.read_text():
        assert time.monotonic() < deadline, f"{words!r} is not on the page"
        time.sleep(0.05)


# --- agents, alarms


def test_agents_are_a_table_for_people(manager: Manager, fleet: Fleet) -> None:
    fleet.file(report(replace(node(4), hostname=HOSTILE), 1, now_ms()))
    shown = run(manager, "agents").stdout
    header, *lines = shown.splitlines()
    assert header.split("  ")[0] == "AGENT"
    assert len(lines) == 4
    assert all(line.index("reporting") == header.index("STATE") for line in lines)
    [two] = [line for line in lines if line.startswith(TWO.hostname)]
    assert two.split()[1:3] == [TWO.agent_id[:8], "reporting"]
    assert f"{OLD_KEY.fingerprint} previous" in two
    assert two.endswith("site=north")
    assert "\x1b" not in shown
    assert "\\u001b[2J\\u202eevil" in shown


def test_agents_are_json_for_programs(manager: Manager, fleet: Fleet) -> None:
    members = json.loads(run(manager, "agents", "--json").stdout)
    assert members["listening"] is True
    assert [agent["hostname"] for agent in members["agents"]] == [ONE.hostname, TWO.hostname, THREE.hostname]
    assert {agent["state"] for agent in members["agents"]} == {"reporting"}


def test_alarms_open_and_closed(manager: Manager, fleet: Fleet) -> None:
    assert run(manager, "alarms").stdout == "No alarm is open.\n"
    assert run(manager, "alarms", "--all").stdout == "There has been no alarm.\n"
    run(manager, "publish", "--once")
    fleet.file(report(TWO, 3, now_ms()))
    fleet.refuse("replay", ONE.agent_id, 1234, now_ms(), detail=HOSTILE)
    run(manager, "publish", "--once")
    shown = run(manager, "alarms").stdout
    assert "previous_key" not in shown
    header, line = shown.splitlines()
    assert "1,234" in line
    assert line.index("replay") == header.index("ALARM")
    assert line.index(ONE.hostname) == header.index("AGENT")
    assert "\x1b" not in shown
    assert "previous_key" in run(manager, "alarms", "--all").stdout
    members = json.loads(run(manager, "alarms", "--all", "--json").stdout)
    assert [alarm["kind"] for alarm in members["open"]] == ["replay"]
    assert [alarm["kind"] for alarm in members["closed"]] == ["previous_key"]


# --- report


@pytest.mark.parametrize("name", [TWO.agent_id, TWO.agent_id.upper(), TWO.agent_id[:6], TWO.hostname])
def test_a_report_is_printed_byte_for_byte(manager: Manager, fleet: Fleet, name: str) -> None:
    shown = run(manager, "report", name).stdout
    record = fleet.store.read(lambda connection: reading.record(connection, TWO.agent_id, None))
    assert record is not None
    assert record.sample == 2
    assert shown.encode() == record.data
    assert OLD_KEY.made(Purpose.REPORT, shown.encode(), record.mac)


def test_an_older_report_and_how_it_came(manager: Manager, fleet: Fleet) -> None:
    members = json.loads(run(manager, "report", ONE.hostname, "--sample", "1", "--envelope").stdout)
    assert members["data"]["sample"] == 1
    assert members["fingerprint"] == KEY.fingerprint
    assert members["relay_path"] == []
    assert KEY.made(Purpose.REPORT, canonical.encode(members["data"]), members["hmac"])


def test_a_name_that_fits_nobody_or_several_is_told(manager: Manager, fleet: Fleet) -> None:
    assert "no agent has the id or the host name 'nobody'" in failed(manager, "report", "nobody")
    fleet.file(report(replace(node(4), hostname=ONE.hostname), 1, now_ms()))
    message = failed(manager, "report", ONE.hostname)
    assert "could be 2 agents; give the id of one:" in message
    assert ONE.agent_id in message
    assert node(4).agent_id in message
    assert "no report with sample 99" in failed(manager, "report", TWO.hostname, "--sample", "99")


# --- history


def _cut_off_and_back(fleet: Fleet) -> None:
    """An hour ago FOUR reported through TWO, was cut off for ten minutes, and came back; two samples were given up."""
    began = now_ms() - HOUR
    for sample in (3, 4):
        fleet.file(report(FOUR, sample, began + sample * MINUTE), relays=(TWO.agent_id,))
    back = began + 17 * MINUTE
    fleet.file(report(FOUR, 17, back))
    for sample in range(5, 15):
        fleet.file(report(FOUR, sample, back, tick=13 + sample, sampled_at=began + sample * MINUTE))


def test_history_is_a_table_for_people(manager: Manager, fleet: Fleet) -> None:
    _cut_off_and_back(fleet)
    header, *lines = run(manager, "history", FOUR.hostname, "--since", "2h").stdout.splitlines()
    assert header.split() == ["FROM", "TO", "LASTED", "SAMPLES", "WHAT"]
    *told, (silent_for, silent) = [re.split(r" {2,}", line)[2:] for line in lines]
    assert told == [
        ["1 min", "2", f"reported via {TWO.hostname}"],
        ["9 min", "10 late", "cut off, alive"],
        ["3 min", "2", "missing"],
        ["0 s", "1", "reported direct"],
    ]
    assert silent == "nothing came since"
    assert silent_for.startswith("43 min")
    assert len(run(manager, "history", FOUR.hostname, "--since", "50min").stdout.splitlines()) == 1 + 4


def test_history_is_json_for_programs(manager: Manager, fleet: Fleet) -> None:
    _cut_off_and_back(fleet)
    members = json.loads(run(manager, "history", FOUR.agent_id, "--json").stdout)
    assert (members["agent_id"], members["hostname"]) == (FOUR.agent_id, FOUR.hostname)
    assert [(span["kind"], span["samples"], span["late"]) for span in members["spans"]] == [
        ("reported", 2, 0),
        ("cut_off", 10, 10),
        ("missing", 2, 0),
        ("reported", 1, 0),
        ("silent", 0, 0),
    ]
    relayed = members["spans"][0]
    assert relayed["path"] == [{"agent_id": TWO.agent_id, "hostname": TWO.hostname}]
    assert (relayed["first_sample"], relayed["last_sample"]) == (3, 4)
    assert relayed["to_at"] - relayed["from_at"] == MINUTE


def test_history_without_reports_says_so(manager: Manager, fleet: Fleet) -> None:
    words = run(manager, "history", ONE.hostname, "--since", "2100-01-31 12:00").stdout
    assert words == f"No report of {ONE.hostname} is kept that was measured since 2100-01-31 12:00:00 UTC.\n"
    assert "no agent has the id or the host name 'nobody'" in failed(manager, "history", "nobody")


# --- reset


def test_a_reset_forgets_one_agent(manager: Manager, fleet: Fleet) -> None:
    shown = run(manager, "reset", ONE.hostname).stdout
    assert shown.startswith(f"reset {ONE.hostname} ({ONE.agent_id}): ")
    assert fleet.members(ONE.agent_id)["highest_tick"] == 0
    assert fleet.members(ONE.agent_id)["reset_at"] > 0
    assert fleet.members(TWO.agent_id)["highest_tick"] == 2


def test_a_reset_forgets_all(manager: Manager, fleet: Fleet) -> None:
    assert run(manager, "reset", "--all").stdout.startswith("reset all 3 agents: ")
    assert fleet.rows("SELECT DISTINCT highest_tick FROM agents") == [(0,)]


# --- keys


def test_keys_tell_whether_a_rotation_is_complete(manager: Manager, fleet: Fleet) -> None:
    shown = run(manager, "keys").stdout
    assert (
        f"[2/3] The rotation to {KEY.fingerprint} is not complete: {TWO.hostname} uses {OLD_KEY.fingerprint}." in shown
    )
    assert [line.split()[:2] for line in shown.splitlines()[1:3]] == [
        [KEY.fingerprint, "current"],
        [OLD_KEY.fingerprint, "previous"],
    ]
    fleet.file(report(TWO, 3, now_ms()))
    assert f"[3/3] All agents sign with {KEY.fingerprint}." in run(manager, "keys").stdout


def test_keys_as_json_hold_no_key(manager: Manager, fleet: Fleet) -> None:
    shown = run(manager, "keys", "--json").stdout
    members = json.loads(shown)
    assert (members["current"], members["rotation_complete"]) == (KEY.fingerprint, False)
    assert members["keys"][1]["agents"] == [TWO.agent_id]
    for key in (KEY, OLD_KEY):
        assert key.psk.hex() not in shown
        assert key.psk.decode() not in shown


def test_keys_without_a_ring(tmp_path: Path) -> None:
    manager = Manager(tmp_path, ring=None)
    assert run(manager, "keys").stdout.startswith("No key is known yet: ")
    (tmp_path / "kattila_ring.json").write_text("damaged")
    (tmp_path / "kattila_ring.json").chmod(0o600)
    assert "is damaged" in failed(manager, "keys")


def test_refresh_key_asks_dns_now(tmp_path: Path) -> None:
    with running_knot({"kattila": [PSK], "other": [OLD_KEY.psk]}) as knot:
        manager = _with_dns(tmp_path, knot, "kattila", ring=None)
        assert run(manager, "refresh-key").stdout == f"the current key is now {KEY.fingerprint} (before: none)\n"
        manager = _with_dns(tmp_path, knot, "other", ring=None)
        manager.ring_file.update(lambda kept: Kept(kept.ring))
        shown = run(manager, "refresh-key").stdout
        assert shown == f"the current key is now {OLD_KEY.fingerprint} (before: {KEY.fingerprint})\n"
        assert "is still" in run(manager, "refresh-key").stdout
        manager = _with_dns(tmp_path, knot, "missing", ring=None)
        manager.ring_file.update(lambda kept: Kept(kept.ring))
        message = failed(manager, "refresh-key")
    assert "missing.example.org" in message
    assert message.endswith(f"; the last good key {OLD_KEY.fingerprint} stays in use\n")


def _with_dns(folder: Path, knot: Knot, name: str, *, ring: Ring | None) -> Manager:
    return Manager(folder, ring=ring, DNS=f"{name}.example.org", DNS_SERVER=knot.address)


# --- check


def test_check_of_a_manager_in_order(tmp_path: Path) -> None:
    with running_knot({"kattila": [PSK]}) as knot, fleet_in(tmp_path) as fleet:
        manager = _with_dns(tmp_path, knot, "kattila", ring=RING)
        for sample in range(1, 41):
            fleet.file(report(ONE, sample, now_ms()))
        fleet.file(report(TWO, 1, now_ms()), key=OLD_KEY)
        lines = run(manager, "check").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 5
    assert lines[1].endswith(f"kattila.example.org holds the key {KEY.fingerprint}")
    assert lines[4].endswith("41 reports read, 40 MACs verified, 1 signed with a key that is no longer in the ring")


def test_check_finds_what_is_wrong_with_reports(tmp_path: Path) -> None:
    with running_knot({"kattila": [PSK]}) as knot, fleet_in(tmp_path) as fleet:
        manager = _with_dns(tmp_path, knot, "kattila", ring=RING)
        for sample in range(1, 7):
            fleet.file(report(node(sample), sample, now_ms()))
        damage(fleet, 1)
        fleet.change("UPDATE reports SET mac = zeroblob(32) WHERE id = 2")
        fleet.change("UPDATE reports SET sample = 77 WHERE id = 3")
        fleet.change("UPDATE reports SET base_id = 999 WHERE id = 4")
        fleet.change("UPDATE reports SET body = x'00' WHERE id = 5")
        shown = run(manager, "check", code=1).stdout
    assert "WRONG  reports: 6 reports read, 1 MACs verified" in shown
    assert "report 1 cannot be read" in shown
    assert f"report 2 of {node(2).agent_id} (sample 2) is not what was signed" in shown
    assert "report 3 says another agent, sample or tick than its row" in shown
    assert "report 4 cannot be read" in shown
    assert "report 5 cannot be read" in shown


def test_check_without_dns_and_database_says_both(tmp_path: Path) -> None:
    shown = run(Manager(tmp_path, ring=None, DNS=""), "check", code=1).stdout
    lines = [line for line in shown.splitlines() if not line.startswith("  ")]
    assert [line.split()[0] for line in lines] == ["ok", "WRONG", "WRONG", "WRONG"]
    assert "DNS is not set" in shown
    assert "refresh-key" in shown
    assert "there is no database" in shown


def test_check_finds_a_damaged_file(tmp_path: Path) -> None:
    with running_knot({"kattila": [PSK]}) as knot:
        with fleet_in(tmp_path) as fleet:
            for sample in range(1, 200):
                fleet.file(report(ONE, sample, now_ms()))
        manager = _with_dns(tmp_path, knot, "kattila", ring=RING)
        path = fleet.database
        content = bytearray(path.read_bytes())
        # An inner page of the file, behind the schema.
        content[-3 * 4096 : -2 * 4096] = b"\xff" * 4096
        path.write_bytes(content)
        done = manager.command("check")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "WRONG  database" in done.stdout
