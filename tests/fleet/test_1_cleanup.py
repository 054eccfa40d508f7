"""Wherever the start of a lab is aborted, `down` finds all its remains, and the next lab comes up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.down import traces
from fleet.lab import is_up, take_down
from fleet.place import here
from fleet.root import make_root
from support.waiting import wait_for

PLACE = here()
# A shell makes its background commands ignore SIGINT, and their children inherit that.
UP = ["env", "--default-signal=INT", sys.executable, "-m", "fleet", "up"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(PLACE.checkout / "tests")}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    take_down(PLACE)
    yield
    take_down(PLACE)


def _users_of_the_root_file_system() -> list[str]:
    """Return the command lines of processes that use the cache, and mounts in it."""
    lines = [path.read_bytes().replace(b"\0", b" ").decode(errors="replace") for path in _command_lines()]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines + mounts if str(PLACE.cache) in line]


def _command_lines() -> Iterator[Path]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if path.exists():
            yield path


@pytest.fixture
def no_root() -> Iterator[Path]:
    """Move the root file system away, yield the path of its stamp file, and move it back."""
    stamp, backup = PLACE.cache / "root.complete", PLACE.cache / "backup"
    make_root(PLACE)
    shutil.rmtree(backup, ignore_errors=True)
    backup.mkdir()
    for path in (PLACE.root, stamp):
        path.rename(backup / path.name)
    yield stamp
    shutil.rmtree(PLACE.root, ignore_errors=True)
    for path in (PLACE.root, stamp):
        (backup / path.name).rename(path)
    backup.rmdir()


def test_a_kill_while_the_root_file_system_is_made_leaves_nothing(no_root: Path) -> None:
    with subprocess.Popen(UP, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as booting:
        wait_for(_users_of_the_root_file_system, "a process that makes the root file system")
        time.sleep(2)
        booting.send_signal(signal.SIGKILL)
    wait_for(lambda: not _users_of_the_root_file_system(), "all of them to end")
    assert not no_root.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_lab_removes_itself(number: signal.Signals) -> None:
    with subprocess.Popen(UP, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as booting:
        assert booting.stdout is not None
        next(line for line in booting.stdout if "booting" in line)
        booting.send_signal(number)
        rest = booting.stdout.read()
    assert booting.returncode == 130
    assert "interrupted" in rest
    assert traces(PLACE) == []


# Before and while namespaces are created, while nodes boot, while SSH is tried, while peers are configured.
@pytest.mark.parametrize("seconds", [0.15, 0.4, 0.7, 2.0, 3.5])
def test_a_kill_while_the_lab_comes_up_leaves_nothing(seconds: float) -> None:
    with subprocess.Popen(UP, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as booting:
        time.sleep(seconds)
        booting.send_signal(signal.SIGKILL)
    take_down(PLACE)
    assert traces(PLACE) == []


def test_the_lab_comes_up_after_a_kill_and_can_be_taken_down_twice() -> None:
    with subprocess.Popen(UP, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as booting:
        wait_for(lambda: traces(PLACE), "parts of the lab")
        time.sleep(1)
        booting.send_signal(signal.SIGKILL)
    assert traces(PLACE) != []
    subprocess.run(UP, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
    assert is_up(PLACE)
    for _ in range(2):
        take_down(PLACE)
        assert traces(PLACE) == []
