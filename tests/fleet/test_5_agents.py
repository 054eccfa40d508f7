"""agents.yml on a fleet whose manager is installed already."""

from __future__ import annotations

import json
import re

import pytest

from fleet.nodes import AGENTS, ONE_BATCH, Fleet
from fleet.plan import LAB, addresses

FIRST, SECOND = AGENTS[:2]
ID = "cat /var/lib/kattila-agent/agent_id.txt"
STARTED = "systemctl show --property=InvocationID kattila-agent"
SETTINGS = "cat /etc/kattila/agent.env"
LABELS = {"site": "north", "note": 'it\'s # "odd" \\ = $HOME'}


pytestmark = pytest.mark.usefixtures("rolled_out")


def test_agents_are_not_changed_while_the_manager_is_stopped(fleet: Fleet) -> None:
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


@pytest.mark.parametrize(
    ("stop", "start", "problem"),
    [
        ("systemctl stop kattila-agent", "systemctl start kattila-agent", "kattila-agent[.]service is inactive"),
        # After three intervals the manager reports the agent as silent.
        ("systemctl kill -s STOP kattila-agent", "systemctl kill -s CONT kattila-agent", "has not arrived|silent"),
    ],
    ids=["stopped", "hanging"],
)
def test_verify_names_an_agent_that_does_not_run(fleet: Fleet, stop: str, start: str, problem: str) -> None:
    fleet.on(FIRST, stop)
    try:
        ran = fleet.playbook("verify.yml", "--limit", FIRST)
    finally:
        fleet.on(FIRST, start)
    assert ran.code != 0, ran.text
    assert re.search(rf"{FIRST} +({problem})", ran.text), ran.text
    assert f"not reporting: {FIRST}" in ran.text


def test_a_wrong_manager_url_is_refused_if_the_manager_runs(fleet: Fleet) -> None:
    wrong = f"http://{LAB.manager}.{LAB.zone}:5068"
    ran = fleet.playbook("site.yml", "--limit", f"{LAB.manager},{FIRST}", "-e", f"kattila_manager_url={wrong}")
    assert ran.code != 0
    assert f"{wrong} does not answer" in ran.text
    assert set(ran.counts("changed").values()) == {0}


def test_a_node_whose_key_differs_from_the_managers_is_refused(fleet: Fleet) -> None:
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
    """Return the invocation of SECOND's agent before a rollout.

    The rollout follows an aborted one on SECOND, and gives FIRST new labels.
    """
    before = fleet.on(SECOND, STARTED)
    fleet.on(SECOND, "touch /etc/kattila/agent.env")  # as after a run that was aborted before the restart
    hosts = fleet.place.state / "labels.yml"
    hosts.write_text(json.dumps({"all": {"hosts": {FIRST: {"kattila_agent_labels": LABELS}}}}))
    inventories = ("-i", str(fleet.place.state / "inventory.yml"), "-i", str(hosts))
    ran = fleet.playbook("agents.yml", *inventories, "--limit", f"{FIRST},{SECOND}", "-e", ONE_BATCH)
    assert ran.code == 0, ran.text[-5000:]
    return before


def test_labels_are_reported_exactly_as_configured(fleet: Fleet, started_before: str) -> None:
    assert fleet.newest_report(fleet.on(FIRST, ID))["telemetry"]["system"]["labels"] == LABELS


def test_a_label_can_be_changed_without_copying_the_agent(fleet: Fleet, started_before: str) -> None:
    labels = {"site": "north", "note": "by tag"}
    variables = json.dumps({"kattila_agent_labels": labels})
    ran = fleet.playbook("agents.yml", "--limit", FIRST, "--tags", "kattila_configure,kattila_run", "-e", variables)
    assert ran.code == 0, ran.text[-5000:]
    assert "TASK [kattila_agent : Copy the agent" not in ran.text
    assert "Run the agent's check on the node" in ran.text
    assert "Show the state of each host" in ran.text
    assert fleet.newest_report(fleet.on(FIRST, ID))["telemetry"]["system"]["labels"] == labels


def test_changes_of_an_aborted_run_take_effect_in_the_next(fleet: Fleet, started_before: str) -> None:
    assert fleet.on(SECOND, STARTED) != started_before
