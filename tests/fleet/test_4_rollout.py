"""The playbooks roll the project out to a fleet over SSH."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from fleet.nodes import AGENTS, MANAGER_COMMAND, ONE_BATCH, Disk, Fleet, Run, differences, eventually
from fleet.plan import LAB
from support.waiting import PATIENCE_SECONDS

SETTINGS = "sha256sum /etc/kattila/agent.env"
HOSTS = {LAB.manager, *AGENTS}


# One agent is enough: all others get the same changes.
SOME = f"{LAB.manager},{AGENTS[0]}"


def test_check_mode_shows_the_first_rollout_and_changes_nothing(fleet: Fleet, untouched: dict[str, Disk]) -> None:
    tried = fleet.playbook("site.yml", "--check", "--diff", "--limit", SOME)
    assert tried.code == 0, tried.text[-5000:]
    assert "+MANAGER_URL=" in tried.text
    assert [differences(fleet.disk(node), untouched[node]) for node in SOME.split(",")] == [set(), set()]


@pytest.fixture(scope="session")
def first(fleet: Fleet, initial_disks: dict[str, Disk]) -> Run:
    """Return the first rollout, run with the most verbose output."""
    return fleet.playbook("site.yml", "-vvv", "--diff")


@dataclass(frozen=True)
class ReadOnlyRuns:
    """Runs that change nothing, and the agents' settings before them."""

    settings: dict[str, str]
    verified: Future[subprocess.CompletedProcess[str]]
    changed: Future[Run]
    removed: Future[Run]


@pytest.fixture(scope="session")
def read_only_runs(fleet: Fleet, first: Run) -> Iterator[ReadOnlyRuns]:
    """Start all runs in parallel, since each mostly waits for nodes."""
    keep = json.dumps({"kattila_manager_state": "absent", "kattila_manager_remove_data": False})
    some = ("--limit", SOME, "-e", "kattila_agent_interval=29")
    with ThreadPoolExecutor(3) as pool:
        yield ReadOnlyRuns(
            fleet.on_all(AGENTS, SETTINGS),
            pool.submit(fleet.control, "make", "verify", f"INVENTORY={fleet.place.state}/inventory.yml"),
            pool.submit(fleet.playbook, "site.yml", "--check", "--diff", "-vvv", *some),
            pool.submit(fleet.playbook, "manager.yml", "--check", "--diff", "-e", keep),
        )


def test_the_first_rollout_succeeds(first: Run) -> None:
    assert first.code == 0, first.text[-5000:]
    assert first.counts("failed") == dict.fromkeys(HOSTS, 0)


def test_all_nodes_report(fleet: Fleet, first: Run) -> None:
    eventually(PATIENCE_SECONDS, fleet.states, lambda states: states == dict.fromkeys(AGENTS, "reporting"))


def test_verbose_output_contains_no_secret(fleet: Fleet, first: Run) -> None:
    assert not [secret for secret in fleet.secrets() if secret in first.text]


def test_verify_succeeds(fleet: Fleet, first: Run) -> None:
    verified = fleet.playbook("verify.yml")
    assert verified.code == 0, verified.text


def test_all_nodes_pass_the_checks_of_make_verify(read_only_runs: ReadOnlyRuns) -> None:
    ran = read_only_runs.verified.result()
    assert ran.returncode == 0, ran.stdout


def test_the_managers_own_check_finds_nothing_wrong(fleet: Fleet, first: Run) -> None:
    assert "WRONG" not in fleet.on(LAB.manager, f"{MANAGER_COMMAND} check")


def test_check_mode_shows_a_change_without_secrets_and_changes_nothing(
    fleet: Fleet, read_only_runs: ReadOnlyRuns
) -> None:
    tried = read_only_runs.changed.result()
    assert tried.code == 0, tried.text[-5000:]
    assert "+INTERVAL=29" in tried.text
    assert not [secret for secret in fleet.secrets() if secret in tried.text]
    assert fleet.on_all(AGENTS, SETTINGS) == read_only_runs.settings


def test_removing_the_manager_can_keep_database_and_backups(read_only_runs: ReadOnlyRuns) -> None:
    tried = read_only_runs.removed.result()
    assert tried.code == 0, tried.text[-5000:]
    changed = set(re.findall(r"^changed: \[.*\(item=(/.*)\)$", tried.text, re.MULTILINE))
    assert {"/opt/kattila-manager", "/var/lib/kattila-pages"} <= changed
    assert not {"/var/lib/kattila-manager", "/var/backups/kattila-manager"} & changed


def test_a_second_rollout_from_the_installed_collection_changes_nothing(fleet: Fleet, first: Run) -> None:
    checkout = fleet.place.checkout
    programs = {"kattila_agent_files": f"{checkout}/agent/bin", "kattila_manager_tarballs": f"{checkout}/manager/bin"}
    ran = fleet.control("ansible-playbook", "kattila.status.site", "-e", ONE_BATCH, "-e", json.dumps(programs))
    second = Run(ran.returncode, ran.stdout)
    assert second.code == 0, second.text[-5000:]
    assert second.counts("changed") == dict.fromkeys(HOSTS, 0), second.text
