"""A node reboots, and the disk of another is cloned."""

from __future__ import annotations

import pytest

from fleet.nodes import AGENTS, Fleet, eventually

REPORT_SECONDS = 90
NEW_ID_SECONDS = 240
# A short interval, so that the manager soon notices two machines with the same id.
SHORT_INTERVAL = "sed -i s/^INTERVAL=.*/INTERVAL=5/ /etc/kattila/agent.env && systemctl restart kattila-agent"
ID = "cat /var/lib/kattila-agent/agent_id.txt"

pytestmark = pytest.mark.usefixtures("rolled_out")


def test_after_a_reboot_a_node_reports_with_its_id_and_a_higher_tick(fleet: Fleet) -> None:
    agent_id, before = fleet.on("south-db", ID), fleet.newest_report("south-db")
    fleet.reboot("south-db")
    after = eventually(
        REPORT_SECONDS,
        lambda: fleet.newest_report("south-db"),
        lambda report: report["boot_id"] != before["boot_id"],
    )
    assert fleet.on("south-db", ID) == agent_id == fleet.agents_by_name()["south-db"]["agent_id"]
    assert after["tick"] > before["tick"]


def test_a_clone_gets_a_new_id_and_the_alarm_names_both_ids(fleet: Fleet) -> None:
    original = fleet.on("south-web", ID)
    fleet.on("south-web", SHORT_INTERVAL)
    fleet.clone("south-web", "south-db")
    assert fleet.on("south-db", "cat /etc/machine-id") == fleet.on("south-web", "cat /etc/machine-id")
    clone = eventually(NEW_ID_SECONDS, lambda: fleet.on("south-db", ID), lambda agent_id: agent_id != original)
    known = eventually(REPORT_SECONDS, lambda: fleet.manager("agents")["agents"],
                       lambda agents: {original, clone} <= {agent["agent_id"] for agent in agents})  # fmt: skip
    assert fleet.on("south-web", ID) == original
    assert {agent["hostname"] for agent in known if agent["agent_id"] in (original, clone)} == {"south-web"}
    # The first alarm text is undecided about two machines and does not name the clone's id yet.
    alarms = eventually(REPORT_SECONDS, lambda: fleet.manager("alarms", "--all"),
                        lambda shown: clone in str(shown))  # fmt: skip
    conflict = next(one for one in (*alarms["open"], *alarms["closed"]) if one["kind"] == "identity_conflict")
    assert conflict["agent_id"] == original
    assert clone in str(conflict)


def test_all_other_nodes_still_report(fleet: Fleet) -> None:
    others = set(AGENTS) - {"south-db"}
    eventually(REPORT_SECONDS, fleet.states, lambda states: {states.get(name) for name in others} == {"reporting"})
