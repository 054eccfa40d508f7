"""One lab for all tests here, booted before the first that asks for it, removed after the last.

KEEP=1: it stays. REUSE=1: one that is up is taken as it is.

They run in the order of their files: what a lab is, what the roll-out refuses, the roll-out, and what happens later.
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
from fleet.ahead import skip_reason
from fleet.lab import bring_up, take_down
from fleet.nodes import NODES, Disk, Fleet
from fleet.place import here
from fleet.plan import LAB

STARTED = time.monotonic()


def pytest_report_teststatus(report: pytest.TestReport | pytest.CollectReport) -> tuple[str, str, str] | None:
    """Show when each promise was found kept, counted from the start."""
    if report.when == "call" and report.passed:
        return "passed", ".", f"PASSED after {time.monotonic() - STARTED:.0f} s"
    return None


@pytest.fixture(scope="session", autouse=True)
def able() -> None:
    if reason := skip_reason():
        pytest.skip(reason)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def fleet(able: None, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    place = here()
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    try:
        bring_up(place, lambda text: terminal.write_line(f"  {text}"), anew=not _is_set("REUSE"))
        yield Fleet(place)
    finally:
        if not _is_set("KEEP"):
            take_down(place)


@pytest.fixture(scope="session")
def bare(fleet: Fleet) -> dict[str, Disk]:
    """What is on the disks of all nodes before the first roll-out; nothing if that has been."""
    return {} if _is_rolled_out(fleet) else {node: fleet.disk(node) for node in NODES}


@pytest.fixture(scope="session")
def untouched(bare: dict[str, Disk]) -> dict[str, Disk]:
    """The same, for tests that compare with it: with REUSE=1 nobody may know any more what there was before."""
    if not bare:
        pytest.skip("the lab had been rolled out before these tests began")
    return bare


@pytest.fixture(scope="session")
def rolled_out(fleet: Fleet, bare: dict[str, Disk]) -> None:
    """The roll-out, for tests that run without those of the roll-out itself."""
    if not _is_rolled_out(fleet):
        ran = fleet.playbook("site.yml")
        assert ran.code == 0, ran.text[-5000:]


@pytest.fixture(scope="session")
def newer_manager(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Path]]:
    """The folder with a newer release of the manager, which is built while tests wait for nodes."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(releases.build_newer, fleet.place.checkout, tmp_path_factory.mktemp("newer"))


def _is_rolled_out(fleet: Fleet) -> bool:
    return fleet.on(LAB.manager, "ls /etc/kattila 2>/dev/null || true") != ""


def _is_set(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")
