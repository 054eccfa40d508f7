"""A rolled-out node loses the manager: its reports come through a neighbour of its tunnels, and directly again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.nodes import Fleet, eventually
from fleet.plan import LAB, underlay

NODE = "north-db"
# So that two intervals are over soon.
INTERVAL_SECONDS = 2
LATE_SAMPLES = 2
PATIENCE_SECONDS = 60
SETTINGS = "/etc/kattila/agent.env"
SET = f"sed -i s/^INTERVAL=.*/{{}}/ {SETTINGS} && systemctl restart kattila-agent"
COUNTERS = "/var/lib/kattila-agent/counters.json"
MANAGER = underlay(LAB, LAB.machine(LAB.manager))
DROP = "; ".join((
    "add table inet cut; add chain inet cut out { type filter hook output priority 0; }",
    *(f"add rule inet cut out ip{'6' if ip.version == 6 else ''} daddr {ip} drop" for ip in MANAGER),
))  # fmt: skip


# These wait for intervals, and leave the machine to the build of the newer manager, which test_7_manager wants.
pytestmark = pytest.mark.usefixtures("newer_manager")


@pytest.fixture(scope="module", autouse=True)
def hurried(fleet: Fleet, rolled_out: None) -> Iterator[None]:
    """The node reports every two seconds; afterwards as before."""
    before = fleet.on(NODE, f"grep ^INTERVAL= {SETTINGS}")
    fleet.on(NODE, SET.format(f"INTERVAL={INTERVAL_SECONDS}"))
    eventually(PATIENCE_SECONDS, lambda: spans(fleet)[-1], lambda span: span["samples"] > 3)
    yield
    fleet.on(NODE, SET.format(before))


@pytest.mark.parametrize(
    ("cut", "mend"),
    [
        (
            " && ".join(f"ip route add blackhole {ip}" for ip in MANAGER),
            " && ".join(f"ip route del blackhole {ip}" for ip in MANAGER),
        ),
        (f"nft '{DROP}'", "nft delete table inet cut"),
    ],
    ids=["blackhole route", "firewall that drops"],
)
def test_cut_off_from_the_manager_it_reports_through_a_neighbour_within_two_intervals(
    fleet: Fleet, cut: str, mend: str
) -> None:
    last_direct = int(json.loads(fleet.on(NODE, f"{cut} && cat {COUNTERS}"))["sample"])
    relayed = eventually(PATIENCE_SECONDS, lambda: spans(fleet)[-1], lambda span: span["path"] != [])
    assert relayed["first_sample"] <= last_direct + LATE_SAMPLES
    assert fleet.states()[NODE] == "relayed"
    last_relayed = int(json.loads(fleet.on(NODE, f"{mend} && cat {COUNTERS}"))["sample"])
    directly = eventually(PATIENCE_SECONDS, lambda: spans(fleet)[-1], lambda span: span["path"] == [])
    assert directly["first_sample"] <= last_relayed + LATE_SAMPLES
    assert fleet.states()[NODE] == "reporting"
    # Tests before this one stopped the manager.
    assert {span["kind"] for span in spans(fleet) if span["last_sample"] > last_direct} == {"reported"}


def spans(fleet: Fleet) -> list[dict[str, Any]]:
    """What went on at the node lately, as the manager tells it."""
    told: list[dict[str, Any]] = fleet.manager("history", NODE, "--since", "1h")["spans"]
    return told
