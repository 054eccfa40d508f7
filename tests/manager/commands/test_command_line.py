"""The command line of all commands: calls, help, settings, output."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from kattila_manager.config import SETTINGS
from support.commands import run
from support.manager import MANAGER, Manager
from support.waiting import PATIENCE_SECONDS


def test_help_names_every_command_and_every_setting(manager: Manager) -> None:
    shown = run(manager, "--help").stdout
    names = "serve publish agents alarms report history reset forget keys refresh-key check backup restore"
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
        ["forget"],
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


def test_an_interrupted_command_ends_quietly(tmp_path: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(PATIENCE_SECONDS)
        manager = Manager(
            tmp_path, ring=None, DNS="kattila.example.org", DNS_SERVER=f"127.0.0.1:{silent.getsockname()[1]}"
        )
        command = [*MANAGER, "refresh-key"]
        with subprocess.Popen(
            command, cwd=tmp_path, env=manager.environment, stderr=subprocess.PIPE, text=True
        ) as process:
            silent.recv(512)
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in complaint
