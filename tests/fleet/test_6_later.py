"""What happens to nodes later: one reboots, the disk of another is cloned."""

from __future__ import annotations

import pytest

from fleet.nodes import AGENTS, Fleet, eventually

AGAIN_SECONDS = 90
TOLD_APART_SECONDS = 240
# So that the manager sees soon that two machines count on in one's name.
OFTEN = "sed -i s/^INTERVAL=.*/INTERVAL=5/ /etc/kattila/agent.env && systemctl restart kattila-agent"
ID = "cat /var/lib/kattila-agent/agent_id.txt"

pytestmark = pytest.mark.usefixtures("rolled_out")


def test_a_node_that_reboots_reports_again_with_its_id_and_a_higher_tick(fleet: Fleet) -> None:
    name, before = fleet.on("south-db", ID), fleet.newest_report("south-db")
    fleet.reboot("south-db")
    after = eventually(
        AGAIN_SECONDS,
        lambda: fleet.newest_report("south-db"),
        lambda report: report["boot_id"] != before["boot_id"],
    )
    assert fleet.on("south-db", ID) == name == fleet.agents_by_name()["south-db"]["agent_id"]
    assert after["tick"] > before["tick"]


def test_a_cloned_disk_ends_with_an_id_of_its_own_and_the_alarm_names_both(fleet: Fleet) -> None:
    original = fleet.on("south-web", ID)
    fleet.on("south-web", OFTEN)
    fleet.clone("south-web", "south-db")
    assert fleet.on("south-db", "cat /etc/machine-id") == fleet.on("south-web", "cat /etc/machine-id")
    clone = eventually(TOLD_APART_SECONDS, lambda: fleet.on("south-db", ID), lambda name: name != original)
    known = eventually(AGAIN_SECONDS, lambda: fleet.manager("agents")["agents"],
                       lambda agents: {original, clone} <= {agent["agent_id"] for agent in agents})  # fmt: skip
    assert fleet.on("south-web", ID) == original
    assert {agent["hostname"] for agent in known if agent["agent_id"] in (original, clone)} == {"south-web"}
    # At first the alarm says that it is not yet clear whether there are two machines.
    alarms = eventually(AGAIN_SECONDS, lambda: fleet.manager("alarms", "--all"),
                        lambda told: clone in str(told))  # fmt: skip
    conflict = next(one for one in (*alarms["open"], *alarms["closed"]) if one["kind"] == "identity_conflict")
    assert conflict["agent_id"] == original
    assert clone in str(conflict)


def test_all_others_still_report(fleet: Fleet) -> None:
    others = set(AGENTS) - {"south-db"}
    eventually(AGAIN_SECONDS, fleet.states, lambda states: {states.get(name) for name in others} == {"reporting"})
