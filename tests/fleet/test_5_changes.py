"""A newer version is rolled out: where that stops, what mends it, and what outlives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fleet.newer import VERSION, newer_agents
from fleet.nodes import AT_ONCE, Fleet, Run

# The first batch, and one of each kind in the next: behind a hub, of IPv6 only, entered by sudo. Others do the same.
SOME = ("north-hub", "north-spoke", "south-six", "south-web")
FIRST_OF_ALL = SOME[0]
IDS = "cat /var/lib/kattila-agent/agent_id.txt"
VERSIONS = "/opt/kattila-agent/kattila-agent -version"
# It reaches neither the manager nor a relay, and the preflight, which runs as root, does not notice.
SILENCE = """nft -f - <<'END'
table inet silence {
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
    """The folder with agents of a newer version."""
    return newer_agents(fleet.place.checkout / "agent/bin", fleet.place.state / "newer")


@pytest.fixture(scope="module")
def before(fleet: Fleet, rolled_out: None) -> Agents:
    """What the manager knows of the agents before."""
    return agents(fleet)


@pytest.fixture(scope="module")
def stopped(fleet: Fleet, before: Agents, newer: Path) -> Run:
    """The roll-out, while one of the agents runs but cannot report."""
    fleet.on(FIRST_OF_ALL, SILENCE)
    try:
        return upgrade(fleet, newer, "kattila_agent_interval=2")
    finally:
        fleet.on(FIRST_OF_ALL, "nft delete table inet silence")


@pytest.fixture(scope="module")
def versions_after_stop(fleet: Fleet, stopped: Run) -> dict[str, str]:
    return fleet.on_all(SOME, VERSIONS)


@pytest.fixture(scope="module")
def upgraded(fleet: Fleet, newer: Path, versions_after_stop: dict[str, str]) -> Run:
    """The roll-out once more, with nothing in its way."""
    return upgrade(fleet, newer, AT_ONCE)


@pytest.fixture(scope="module")
def after(fleet: Fleet, upgraded: Run) -> Agents:
    """What the manager knows of them then."""
    return agents(fleet)


def test_a_batch_that_does_not_report_ends_the_roll_out_and_is_named(stopped: Run) -> None:
    assert stopped.code != 0
    assert f"not reporting: {FIRST_OF_ALL}" in stopped.text


def test_batches_after_it_are_left_as_they_are(versions_after_stop: dict[str, str]) -> None:
    changed = {node for node, version in versions_after_stop.items() if VERSION in version}
    assert changed == {FIRST_OF_ALL}


def test_the_next_roll_out_mends_it(upgraded: Run) -> None:
    assert upgraded.code == 0, upgraded.text[-5000:]


def test_an_upgrade_reaches_every_node(after: Agents) -> None:
    assert {name: agent["agent_version"] for name, agent in after.items()} == dict.fromkeys(SOME, VERSION)


def test_an_upgrade_keeps_every_id(fleet: Fleet, before: Agents, after: Agents) -> None:
    ids = {name: agent["agent_id"] for name, agent in before.items()}
    assert fleet.on_all(SOME, IDS) == ids == {name: agent["agent_id"] for name, agent in after.items()}


def test_after_an_upgrade_agents_count_on(before: Agents, after: Agents) -> None:
    assert [name for name in SOME if after[name]["highest_sample"] <= before[name]["highest_sample"]] == []


def test_an_upgrade_loses_nothing_that_was_reported_before(before: Agents, after: Agents) -> None:
    first_seen = {name: agent["first_seen_at"] for name, agent in before.items()}
    assert {name: agent["first_seen_at"] for name, agent in after.items()} == first_seen
