"""The shipped playbooks roll the project out to a fleet, over SSH."""

from __future__ import annotations

import time

import pytest

from fleet.nodes import AGENTS, AT_ONCE, MANAGER_COMMAND, Disk, Fleet, Run
from fleet.plan import LAB

FRESH_SECONDS = 60
HOSTS = {LAB.manager, *AGENTS}


@pytest.fixture(scope="session")
def first(fleet: Fleet, bare: dict[str, Disk]) -> Run:
    """The first roll-out, telling all it can."""
    return fleet.playbook("site.yml", "-vvv", "--diff")


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


def test_promises_about_the_nodes_are_kept(fleet: Fleet, first: Run) -> None:
    ran = fleet.control("make", "verify", f"INVENTORY={fleet.place.state}/inventory.yml")
    assert ran.returncode == 0, ran.stdout


def test_settings_database_and_every_report_are_in_order(fleet: Fleet, first: Run) -> None:
    assert "WRONG" not in fleet.on(LAB.manager, f"{MANAGER_COMMAND} check")


# All other agents would be told the same.
SOME = f"{LAB.manager},{AGENTS[0]}"


def test_a_change_is_shown_before_it_is_made_and_no_secret(fleet: Fleet, first: Run) -> None:
    before = {node: fleet.on(node, "sha256sum /etc/kattila/agent.env") for node in AGENTS}
    words = ("--check", "--diff", "-vvv", "--limit", SOME)
    tried = fleet.playbook("site.yml", *words, "-e", "kattila_agent_interval=29")
    assert tried.code == 0, tried.text[-5000:]
    assert "+INTERVAL=29" in tried.text
    assert not [secret for secret in fleet.secrets() if secret in tried.text]
    assert {node: fleet.on(node, "sha256sum /etc/kattila/agent.env") for node in AGENTS} == before


def test_the_second_roll_out_changes_nothing(fleet: Fleet, first: Run) -> None:
    second = fleet.playbook("site.yml", "-e", AT_ONCE)
    assert second.code == 0, second.text[-5000:]
    assert second.counts("changed") == dict.fromkeys(HOSTS, 0), second.text
