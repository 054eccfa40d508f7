"""All commands with a stdout, a stderr or a working folder that cannot be used."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace

import pytest

from support.commands import ONE
from support.fleet import Fleet
from support.manager import MANAGER, Manager, now_ms
from support.reports import node, report
from support.waiting import PATIENCE_SECONDS

COMMANDS = [
    "--help",
    "agents",
    "alarms --json",
    f"report {ONE.agent_id}",
    f"history {ONE.agent_id} --since 10m",
    "check",
    "backup --json",
    f"reset {ONE.agent_id}",
]
FAILING = ["agents --nonsense", "report nobody"]
BROKEN = {
    "full": (">/dev/full", "cannot write to stdout (No space left on device)"),
    "closed": (">&-", "cannot write to stdout (Bad file descriptor)"),
    "closed, as are the others": ("<&- >&- 2>&-", ""),
    "full, as is stderr": (">/dev/full 2>/dev/full", ""),
}
IN_REMOVED_FOLDER = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'


def in_shell(
    manager: Manager, script: str, arguments: Sequence[str], **settings: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the manager as "$@" of a shell script."""
    return subprocess.run(
        ["sh", "-c", script, "sh", *MANAGER, *arguments],
        cwd=manager.folder,
        env=manager.environment | settings,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("case", BROKEN)
def test_a_stdout_that_cannot_be_written_is_an_error(manager: Manager, fleet: Fleet, case: str) -> None:
    redirection, words = BROKEN[case]
    for command in COMMANDS:
        done = in_shell(manager, f'"$@" {redirection}', shlex.split(command))
        shown = (command, done)
        assert done.returncode == 1, shown
        assert done.stdout == b"", shown
        lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("WARNING kattila")]
        assert [line.startswith(f"kattila-manager: {words}") for line in lines] == [True] * bool(words), shown


def test_a_reader_that_has_ended_is_no_error_to_report(manager: Manager, fleet: Fleet) -> None:
    for command in COMMANDS:
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer) as pipe:
            done = subprocess.run(
                [*MANAGER, *shlex.split(command)],
                cwd=manager.folder,
                env=manager.environment,
                stdout=pipe,
                stderr=subprocess.PIPE,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
        assert done.returncode == 1, (command, done)
        assert [line for line in done.stderr.splitlines() if not line.startswith(b"WARNING kattila")] == [], command


@pytest.mark.parametrize("redirection", [">/dev/full", "2>/dev/full", "<&- >&- 2>&-"])
def test_a_failing_command_keeps_its_exit_code(manager: Manager, fleet: Fleet, redirection: str) -> None:
    for command in FAILING:
        done = in_shell(manager, f'"$@" {redirection}', shlex.split(command))
        assert done.returncode == (2 if command == "agents --nonsense" else 1), (command, done)
        assert done.stdout == b"", "errors are not for stdout"
        assert b"Traceback" not in done.stderr
        assert b"Exception" not in done.stderr
        assert bool(done.stderr) is ("2>" not in redirection), (command, done)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_a_character_shows_its_number(manager: Manager, fleet: Fleet, encoding: str) -> None:
    name = "nœud-日本-é-🦊"
    fleet.file(report(replace(node(9), hostname=name), 1, now_ms()))
    for command in ("agents", "agents --json", f"report {node(9).agent_id}", f"reset {node(9).agent_id}"):
        done = in_shell(manager, '"$@"', shlex.split(command), PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, b""), (command, done)
        if command == "agents":
            assert name.encode(encoding, "backslashreplace") in done.stdout


def test_in_a_removed_folder_absolute_settings_suffice(manager: Manager, fleet: Fleet) -> None:
    for command in COMMANDS:
        done = in_shell(manager, IN_REMOVED_FOLDER, shlex.split(command))
        assert done.returncode == (1 if command == "check" else 0), (command, done)
        assert done.stdout != b""
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["agents", "serve", "restore x.db", "--env x.env agents"])
def test_in_a_removed_folder_a_relative_path_is_an_error(manager: Manager, fleet: Fleet, command: str) -> None:
    done = in_shell(manager, IN_REMOVED_FOLDER, shlex.split(command), MANAGER_DB="kattila_manager.db")
    assert done.returncode == 2, done
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("kattila-manager: ")
    assert "x.env" in line if "x.env" in command else "the working folder was removed: set an absolute path" in line


def test_files_relative_to_a_removed_folder_are_not_found(manager: Manager, fleet: Fleet) -> None:
    for command in ("backup x.db", "restore x.db"):
        done = in_shell(manager, IN_REMOVED_FOLDER, shlex.split(command))
        assert done.returncode == 1, done
        assert len(done.stderr.splitlines()) == 1, done


def test_serve_needs_another_folder_than_a_removed_one(manager: Manager) -> None:
    done = in_shell(manager, IN_REMOVED_FOLDER, ["serve"])
    assert done.returncode == 1
    assert done.stderr.decode().startswith("kattila-manager: the working folder was removed: change to another folder")


def test_serve_needs_no_stdout(manager: Manager) -> None:
    server = Manager(manager.folder, program=["sh", "-c", 'exec "$@" <&- >&-', "sh", *MANAGER])
    try:
        server.start()
        assert server.stop() == 0
    finally:
        server.kill()
