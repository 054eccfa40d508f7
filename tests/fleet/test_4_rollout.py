"""The shipped playbooks roll the project out to a fleet, over SSH."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from fleet.nodes import AGENTS, AT_ONCE, MANAGER_COMMAND, Disk, Fleet, Run, differences
from fleet.plan import LAB

FRESH_SECONDS = 60
SETTINGS = "sha256sum /etc/kattila/agent.env"
HOSTS = {LAB.manager, *AGENTS}


# All other agents would be told the same.
SOME = f"{LAB.manager},{AGENTS[0]}"


def test_the_first_roll_out_is_shown_before_it_is_made(fleet: Fleet, untouched: dict[str, Disk]) -> None:
    tried = fleet.playbook("site.yml", "--check", "--diff", "--limit", SOME)
    assert tried.code == 0, tried.text[-5000:]
    assert "+MANAGER_URL=" in tried.text
    assert [differences(fleet.disk(node), untouched[node]) for node in SOME.split(",")] == [set(), set()]


@pytest.fixture(scope="session")
def first(fleet: Fleet, bare: dict[str, Disk]) -> Run:
    """The first roll-out, telling all it can."""
    return fleet.playbook("site.yml", "-vvv", "--diff")


@dataclass(frozen=True)
class Looks:
    """Runs that change nothing, and the agents' settings before."""

    settings: dict[str, str]
    verified: Future[subprocess.CompletedProcess[str]]
    changed: Future[Run]
    removed: Future[Run]


@pytest.fixture(scope="session")
def looks(fleet: Fleet, first: Run) -> Iterator[Looks]:
    """All at the same time, as each mostly waits for one node."""
    keep = json.dumps({"kattila_manager_state": "absent", "kattila_manager_remove_data": False})
    some = ("--limit", SOME, "-e", "kattila_agent_interval=29")
    with ThreadPoolExecutor(3) as pool:
        yield Looks(
            fleet.on_all(AGENTS, SETTINGS),
            pool.submit(fleet.control, "make", "verify", f"INVENTORY={fleet.place.state}/inventory.yml"),
            pool.submit(fleet.playbook, "site.yml", "--check", "--diff", "-vvv", *some),
            pool.submit(fleet.playbook, "manager.yml", "--check", "--diff", "-e", keep),
        )


def test_the_first_roll_out_succeeds(first: Run) -> None:
    assert first.code == 0, first.text[-5000:]
    assert first.counts("failed") == dict.fromkeys(HOSTS, 0)


def test_all_nodes_report_within_a_minute(fleet: Fleet, first: Run) -> None:
    deadline = time.monotonic() + FRESH_SECONDS
    while set(fleet.states()) != set(AGENTS) or set(fleet.states().values()) != {"reporting"}:
        assert time.monotonic() < deadline, fleet.states()
        time.sleep(1)


def test_it_showed_no_secret_however_much_it_told(fleet: Fleet, first: Run) -> None:
    assert not [secret for secret in fleet.secrets() if secret in first.text]


def test_verify_finds_nothing_to_complain_of(fleet: Fleet, first: Run) -> None:
    verified = fleet.playbook("verify.yml")
    assert verified.code == 0, verified.text


def test_promises_about_the_nodes_are_kept(looks: Looks) -> None:
    ran = looks.verified.result()
    assert ran.returncode == 0, ran.stdout


def test_settings_database_and_every_report_are_in_order(fleet: Fleet, first: Run) -> None:
    assert "WRONG" not in fleet.on(LAB.manager, f"{MANAGER_COMMAND} check")


def test_a_change_is_shown_before_it_is_made_and_no_secret(fleet: Fleet, looks: Looks) -> None:
    tried = looks.changed.result()
    assert tried.code == 0, tried.text[-5000:]
    assert "+INTERVAL=29" in tried.text
    assert not [secret for secret in fleet.secrets() if secret in tried.text]
    assert fleet.on_all(AGENTS, SETTINGS) == looks.settings


def test_database_and_backups_can_be_kept_by_who_removes_the_rest(looks: Looks) -> None:
    tried = looks.removed.result()
    assert tried.code == 0, tried.text[-5000:]
    changed = set(re.findall(r"^changed: \[.*\(item=(/.*)\)$", tried.text, re.MULTILINE))
    assert {"/opt/kattila-manager", "/var/lib/kattila-pages"} <= changed
    assert not {"/var/lib/kattila-manager", "/var/backups/kattila-manager"} & changed


def test_the_second_roll_out_changes_nothing(fleet: Fleet, first: Run) -> None:
    second = fleet.playbook("site.yml", "-e", AT_ONCE)
    assert second.code == 0, second.text[-5000:]
    assert second.counts("changed") == dict.fromkeys(HOSTS, 0), second.text
