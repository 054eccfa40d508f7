"""uninstall.yml removes everything and leaves nothing behind."""

from __future__ import annotations

import re

import pytest

from fleet.nodes import AGENTS, Disk, Fleet, Run, differences
from fleet.plan import LAB

# Its disk was replaced by a clone.
REPLACED = "south-db"
NODES = tuple(node for node in (LAB.manager, *AGENTS) if node != REPLACED)
# Adding and removing an account rewrites the account files. nginx was installed before, and continues to run.
NOT_OURS = re.compile(
    r"etc/((passwd|shadow|group|gshadow|subuid|subgid)-?|\.pwd\.lock)$"
    r"|etc/(rc.\.d|systemd/system/multi-user\.target\.wants)/\w*nginx|var/lib/nginx/"
)


@pytest.fixture(scope="module")
def removal(fleet: Fleet, rolled_out: None) -> Run:
    # Let one unit fail: systemd remembers a failed unit even after it is removed.
    fleet.on(AGENTS[0], "echo INTERVAL=nonsense >>/etc/kattila/agent.env; systemctl restart kattila-agent || true")
    fleet.on(AGENTS[0], "until systemctl is-failed kattila-agent; do sleep 0.1; done")
    return fleet.playbook("uninstall.yml", "-e", "kattila_uninstall=yes")


def test_nothing_is_removed_without_confirmation(fleet: Fleet, rolled_out: None) -> None:
    ran = fleet.playbook("uninstall.yml")
    assert ran.code != 0
    assert "nothing was removed" in ran.text
    assert set(fleet.on_all(AGENTS, "systemctl is-active kattila-agent").values()) == {"active"}


def test_the_removal_succeeds(removal: Run) -> None:
    assert removal.code == 0, removal.text[-5000:]


def test_a_second_removal_changes_nothing(fleet: Fleet, removal: Run) -> None:
    again = fleet.playbook("uninstall.yml", "-e", "kattila_uninstall=yes", "--limit", f"{LAB.manager},{AGENTS[0]}")
    assert again.code == 0, again.text[-5000:]
    assert set(again.counts("changed").values()) == {0}, again.text[-5000:]


@pytest.mark.parametrize("node", NODES)
def test_the_disk_is_the_same_as_before_the_rollout(
    fleet: Fleet, untouched: dict[str, Disk], removal: Run, node: str
) -> None:
    different = differences(fleet.disk(node), untouched[node])
    assert sorted(path for path in different if not NOT_OURS.match(path)) == []


# systemd keeps the slice of a template's instances until the next boot.
@pytest.mark.parametrize(
    "command",
    ["getent passwd", "getent group", "systemctl list-units --all | grep -vF .slice", "ls /run", "ps -eo user,args"],
)
def test_no_traces_are_left(fleet: Fleet, removal: Run, command: str) -> None:
    left = fleet.on_all((LAB.manager, *AGENTS), f"{command} | grep -F kattila | grep -vF 'grep' || true")
    assert left == dict.fromkeys(left, "")
