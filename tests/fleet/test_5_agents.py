"""What agents.yml does for a fleet whose manager is there."""

from __future__ import annotations

import json
import re

import pytest

from fleet.nodes import AGENTS, AT_ONCE, Fleet
from fleet.plan import LAB, addresses

FIRST, SECOND = AGENTS[:2]
ID = "cat /var/lib/kattila-agent/agent_id.txt"
STARTED = "systemctl show --property=InvocationID kattila-agent"
SETTINGS = "cat /etc/kattila/agent.env"
LABELS = {"site": "north", "note": 'it\'s # "odd" \\ = $HOME'}


pytestmark = pytest.mark.usefixtures("rolled_out")


def test_without_a_manager_it_refuses_and_changes_nothing(fleet: Fleet) -> None:
    before = fleet.on_all(AGENTS, SETTINGS)
    fleet.on(LAB.manager, "systemctl stop kattila-manager")
    try:
        ran = fleet.playbook("agents.yml", "-e", "kattila_agent_interval=29")
    finally:
        fleet.on(LAB.manager, "systemctl start kattila-manager")
    assert ran.code != 0
    assert {host for host, failed in ran.counts("failed").items() if failed} == set(AGENTS)
    assert f"{LAB.manager}.{LAB.zone}:5086 does not answer" in ran.text
    assert fleet.on_all(AGENTS, SETTINGS) == before


def test_a_wrong_url_is_refused_where_the_manager_runs_already(fleet: Fleet) -> None:
    wrong = f"http://{LAB.manager}.{LAB.zone}:5068"
    ran = fleet.playbook("site.yml", "--limit", f"{LAB.manager},{FIRST}", "-e", f"kattila_manager_url={wrong}")
    assert ran.code != 0
    assert f"{wrong} does not answer" in ran.text
    assert set(ran.counts("changed").values()) == {0}


def test_one_that_sees_another_record_than_the_manager_is_refused(fleet: Fleet) -> None:
    other = "".join(f"nameserver {ip}\n" for ip in addresses(LAB, LAB.other_resolver))
    fleet.on(FIRST, "cp --archive /etc/resolv.conf /run/usual.conf; cat >/etc/resolv.conf", other)
    try:
        ran = fleet.playbook("agents.yml", "--limit", FIRST, "-e", "kattila_agent_interval=29")
    finally:
        fleet.on(FIRST, "cp --archive /run/usual.conf /etc/resolv.conf; rm /run/usual.conf")
    assert ran.counts("changed") == {FIRST: 0}
    assert re.search(
        rf"{FIRST} gets the key with fingerprint [0-9a-f]{{8}} .*, but the manager has [0-9a-f]{{8}}", ran.text
    )


@pytest.fixture(scope="module")
def started_before(fleet: Fleet) -> str:
    """The run of SECOND's agent before the roll-out: which gives FIRST labels, and comes after one that was ended."""
    before = fleet.on(SECOND, STARTED)
    fleet.on(SECOND, "touch /etc/kattila/agent.env")  # As it is left by a run that did not come to the restart.
    hosts = fleet.place.state / "labels.yml"
    hosts.write_text(json.dumps({"all": {"hosts": {FIRST: {"kattila_agent_labels": LABELS}}}}))
    inventories = ("-i", str(fleet.place.state / "inventory.yml"), "-i", str(hosts))
    ran = fleet.playbook("agents.yml", *inventories, "--limit", f"{FIRST},{SECOND}", "-e", AT_ONCE)
    assert ran.code == 0, ran.text[-5000:]
    return before


def test_labels_are_told_as_they_are_written(fleet: Fleet, started_before: str) -> None:
    assert fleet.newest_report(fleet.on(FIRST, ID))["telemetry"]["system"]["labels"] == LABELS


def test_what_a_run_that_was_ended_left_is_in_use_after_the_next(fleet: Fleet, started_before: str) -> None:
    assert fleet.on(SECOND, STARTED) != started_before
