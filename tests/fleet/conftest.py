"""One lab for all tests in this folder, booted before the first test that uses it and removed after the last.

KEEP=1 keeps the lab after the tests. REUSE=1 uses a lab that is up already.

The tests run in the order of their file names: the lab itself, refused rollouts, the rollout, and changes after it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from fleet import releases
from fleet.lab import bring_up, take_down
from fleet.nodes import NODES, Disk, Fleet
from fleet.place import here
from fleet.plan import LAB
from fleet.prerequisites import skip_reason

STARTED = time.monotonic()


def pytest_report_teststatus(report: pytest.TestReport | pytest.CollectReport) -> tuple[str, str, str] | None:
    """Show the seconds since the start beside each passed test."""
    if report.when == "call" and report.passed:
        return "passed", ".", f"PASSED after {time.monotonic() - STARTED:.0f} s"
    return None


@pytest.fixture(scope="session", autouse=True)
def lab_can_run() -> None:
    if reason := skip_reason():
        pytest.skip(reason)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def fleet(lab_can_run: None, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    place = here()
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    try:
        bring_up(place, lambda text: terminal.write_line(f"  {text}"), restart=not _is_set("REUSE"))
        yield Fleet(place)
    finally:
        if not _is_set("KEEP"):
            take_down(place)


@pytest.fixture(scope="session")
def initial_disks(fleet: Fleet) -> dict[str, Disk]:
    """Return the disks of all nodes before the first rollout; empty if the lab is rolled out already."""
    return {} if _is_rolled_out(fleet) else {node: fleet.disk(node) for node in NODES}


@pytest.fixture(scope="session")
def untouched(initial_disks: dict[str, Disk]) -> dict[str, Disk]:
    """Return the disks before the first rollout, or skip the test: with REUSE=1 they may be unknown."""
    if not initial_disks:
        pytest.skip("the lab was rolled out before these tests began")
    return initial_disks


@pytest.fixture(scope="session")
def rolled_out(fleet: Fleet, initial_disks: dict[str, Disk]) -> None:
    """Roll out, unless the tests of the rollout itself did it before."""
    if not _is_rolled_out(fleet):
        ran = fleet.playbook("site.yml")
        assert ran.code == 0, ran.text[-5000:]


@pytest.fixture(scope="session")
def newer_manager(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Path]]:
    """Yield the folder of a newer manager release, built in the background while tests wait for nodes."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(releases.build_newer, fleet.place.checkout, tmp_path_factory.mktemp("newer"))


def _is_rolled_out(fleet: Fleet) -> bool:
    return fleet.on(LAB.manager, "ls /etc/kattila 2>/dev/null || true") != ""


def _is_set(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")
