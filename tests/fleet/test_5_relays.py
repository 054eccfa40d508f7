"""A node that cannot reach the manager reports through a tunnel peer, and directly again once it can."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.nodes import Fleet, eventually
from fleet.plan import LAB, underlay
from support.waiting import PATIENCE_SECONDS

NODE = "north-db"
# Short, so that two intervals pass quickly.
INTERVAL_SECONDS = 2
LATE_SAMPLES = 2
SETTINGS = "/etc/kattila/agent.env"
SET = f"sed -i s/^INTERVAL=.*/{{}}/ {SETTINGS} && systemctl restart kattila-agent"
COUNTERS = "/var/lib/kattila-agent/counters.json"
MANAGER = underlay(LAB, LAB.machine(LAB.manager))
DROP = "; ".join((
    "add table inet cut; add chain inet cut out { type filter hook output priority 0; }",
    *(f"add rule inet cut out ip{'6' if ip.version == 6 else ''} daddr {ip} drop" for ip in MANAGER),
))  # fmt: skip


# These tests mostly wait, so the newer manager for test_7_manager is built meanwhile.
pytestmark = pytest.mark.usefixtures("newer_manager")


@pytest.fixture(scope="module", autouse=True)
def short_interval(fleet: Fleet, rolled_out: None) -> Iterator[None]:
    """Make the node report every two seconds, and restore its interval afterwards."""
    before = fleet.on(NODE, f"grep ^INTERVAL= {SETTINGS}")
    fleet.on(NODE, SET.format(f"INTERVAL={INTERVAL_SECONDS}"))
    eventually(PATIENCE_SECONDS, lambda: spans(fleet)[-1], lambda span: span["samples"] > 3)
    yield
    fleet.on(NODE, SET.format(before))


@pytest.mark.parametrize(
    ("block", "unblock"),
    [
        (
            " && ".join(f"ip route add blackhole {ip}" for ip in MANAGER),
            " && ".join(f"ip route del blackhole {ip}" for ip in MANAGER),
        ),
        (f"nft '{DROP}'", "nft delete table inet cut"),
    ],
    ids=["blackhole route", "firewall that drops"],
)
def test_a_node_cut_off_from_the_manager_reports_through_a_relay_within_two_intervals(
    fleet: Fleet, block: str, unblock: str
) -> None:
    last_direct = int(json.loads(fleet.on(NODE, f"{block} && cat {COUNTERS}"))["sample"])
    relayed = eventually(PATIENCE_SECONDS, lambda: spans(fleet)[-1], lambda span: span["path"] != [])
    assert relayed["first_sample"] <= last_direct + LATE_SAMPLES
    assert fleet.states()[NODE] == "relayed"
    last_relayed = int(json.loads(fleet.on(NODE, f"{unblock} && cat {COUNTERS}"))["sample"])
    directly = eventually(PATIENCE_SECONDS, lambda: spans(fleet)[-1], lambda span: span["path"] == [])
    assert directly["first_sample"] <= last_relayed + LATE_SAMPLES
    assert fleet.states()[NODE] == "reporting"
    # Only samples since the block, as earlier tests stopped the manager.
    assert {span["kind"] for span in spans(fleet) if span["last_sample"] > last_direct} == {"reported"}


def spans(fleet: Fleet) -> list[dict[str, Any]]:
    """Return the manager's history of the node for the last hour."""
    history: list[dict[str, Any]] = fleet.manager("history", NODE, "--since", "1h")["spans"]
    return history
