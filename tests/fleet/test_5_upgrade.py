"""A rollout of a newer agent stops at a batch that does not report, continues later, and loses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fleet.newer import VERSION, newer_agents
from fleet.nodes import ONE_BATCH, Fleet, Run

# The first batch, and then one node of each kind: behind a hub, IPv6 only, login with sudo.
SOME = ("north-hub", "north-spoke", "south-six", "south-web")
FIRST_OF_ALL = SOME[0]
IDS = "cat /var/lib/kattila-agent/agent_id.txt"
VERSIONS = "/opt/kattila-agent/kattila-agent -version"
# Blocks the agent from the manager and from relays. The preflight runs as root, so it does not notice.
BLOCK_AGENT = """nft -f - <<'END'
table inet blocked {
    chain output {
        type filter hook output priority 0
        meta skuid kattila-agent tcp dport { 5086, 5087 } reject
    }
}
END"""

Agents = dict[str, dict[str, Any]]


def agents(fleet: Fleet) -> Agents:
    return {name: agent for name, agent in fleet.agents_by_name().items() if name in SOME}


def upgrade(fleet: Fleet, newer: Path, variables: str) -> Run:
    words = ("--limit", ",".join(SOME), "-e", f"kattila_agent_files={newer}", "-e", variables)
    return fleet.playbook("agents.yml", *words)


@pytest.fixture(scope="module")
def newer(fleet: Fleet) -> Path:
    """Return the folder with agents of a newer version."""
    return newer_agents(fleet.place.checkout / "agent/bin", fleet.place.state / "newer")


@pytest.fixture(scope="module")
def before(fleet: Fleet, rolled_out: None) -> Agents:
    """Return the manager's entries for the agents before the upgrade."""
    return agents(fleet)


@pytest.fixture(scope="module")
def stopped(fleet: Fleet, before: Agents, newer: Path) -> Run:
    """Return a rollout during which one agent runs but cannot report."""
    fleet.on(FIRST_OF_ALL, BLOCK_AGENT)
    try:
        return upgrade(fleet, newer, "kattila_agent_interval=2")
    finally:
        fleet.on(FIRST_OF_ALL, "nft delete table inet blocked")


@pytest.fixture(scope="module")
def versions_after_stop(fleet: Fleet, stopped: Run) -> dict[str, str]:
    return fleet.on_all(SOME, VERSIONS)


@pytest.fixture(scope="module")
def upgraded(fleet: Fleet, newer: Path, versions_after_stop: dict[str, str]) -> Run:
    """Return the same rollout, repeated with the agent unblocked."""
    return upgrade(fleet, newer, ONE_BATCH)


@pytest.fixture(scope="module")
def after(fleet: Fleet, upgraded: Run) -> Agents:
    """Return the manager's entries for the agents after the upgrade."""
    return agents(fleet)


def test_a_batch_that_does_not_report_stops_the_rollout_and_is_named(stopped: Run) -> None:
    assert stopped.code != 0
    assert f"not reporting: {FIRST_OF_ALL}" in stopped.text


def test_later_batches_are_not_changed(versions_after_stop: dict[str, str]) -> None:
    changed = {node for node, version in versions_after_stop.items() if VERSION in version}
    assert changed == {FIRST_OF_ALL}


def test_the_repeated_rollout_succeeds(upgraded: Run) -> None:
    assert upgraded.code == 0, upgraded.text[-5000:]


def test_an_upgrade_reaches_every_node(after: Agents) -> None:
    assert {name: agent["agent_version"] for name, agent in after.items()} == dict.fromkeys(SOME, VERSION)


def test_an_upgrade_keeps_every_id(fleet: Fleet, before: Agents, after: Agents) -> None:
    ids = {name: agent["agent_id"] for name, agent in before.items()}
    assert fleet.on_all(SOME, IDS) == ids == {name: agent["agent_id"] for name, agent in after.items()}


def test_sample_numbers_increase_across_an_upgrade(before: Agents, after: Agents) -> None:
    assert [name for name in SOME if after[name]["highest_sample"] <= before[name]["highest_sample"]] == []


def test_an_upgrade_keeps_the_agents_history(before: Agents, after: Agents) -> None:
    first_seen = {name: agent["first_seen_at"] for name, agent in before.items()}
    assert {name: agent["first_seen_at"] for name, agent in after.items()} == first_seen
