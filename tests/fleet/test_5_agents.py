"""What agents.yml does for a fleet whose manager is there."""

from __future__ import annotations

import json

import pytest

from fleet.nodes import AGENTS, Fleet
from fleet.plan import LAB

FIRST = AGENTS[0]
ID = "cat /var/lib/kattila-agent/agent_id.txt"
STARTED = "systemctl show --property=InvocationID kattila-agent"
SETTINGS = "cat /etc/kattila/agent.env"
ODD = 'it\'s # "odd" \\ = $HOME'


pytestmark = pytest.mark.usefixtures("rolled_out")


def test_without_a_manager_it_refuses_and_changes_nothing(fleet: Fleet) -> None:
    before = fleet.on_all(AGENTS, SETTINGS)
    fleet.on(LAB.manager, "systemctl stop kattila-manager")
    try:
        ran = fleet.playbook("agents.yml", "-e", "kattila_agent_interval=29")
    finally:
        fleet.on(LAB.manager, "systemctl start kattila-manager")
    assert ran.code != 0
    assert ran.counts("failed") == dict.fromkeys(AGENTS, 1)
    assert f"{LAB.manager}.{LAB.zone}:5086 does not answer" in ran.text
    assert fleet.on_all(AGENTS, SETTINGS) == before


def test_labels_are_told_as_they_are_written(fleet: Fleet) -> None:
    labels = {"site": "north", "note": ODD}
    ran = fleet.playbook("agents.yml", "--limit", FIRST, "-e", json.dumps({"kattila_agent_labels": labels}))
    assert ran.code == 0, ran.text[-5000:]
    assert fleet.newest_report(fleet.on(FIRST, ID))["telemetry"]["system"]["labels"] == labels


def test_what_a_run_that_was_ended_left_is_in_use_after_the_next(fleet: Fleet) -> None:
    before = fleet.on(FIRST, STARTED)
    fleet.on(FIRST, "touch /etc/kattila/agent.env")  # As after a run that was ended before it came to the restart.
    ran = fleet.playbook("agents.yml", "--limit", FIRST)
    assert ran.code == 0, ran.text[-5000:]
    assert fleet.on(FIRST, STARTED) != before
