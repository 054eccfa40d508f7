"""What was rolled out can be removed, and leaves nothing."""

from __future__ import annotations

import re

import pytest

from fleet.nodes import AGENTS, Disk, Fleet, Run, differences
from fleet.plan import LAB

# Its disk was replaced by a clone.
REPLACED = "south-db"
NODES = tuple(node for node in (LAB.manager, *AGENTS) if node != REPLACED)
# Files with all accounts in them are written anew, and nginx, which was there before, goes on.
NOT_OURS = re.compile(
    r"etc/((passwd|shadow|group|gshadow|subuid|subgid)-?|\.pwd\.lock)$"
    r"|etc/(rc.\.d|systemd/system/multi-user\.target\.wants)/\w*nginx|var/lib/nginx/"
)


@pytest.fixture(scope="module")
def removal(fleet: Fleet, rolled_out: None) -> Run:
    # One has failed, which systemd remembers of a unit that is gone, too.
    fleet.on(AGENTS[0], "echo INTERVAL=nonsense >>/etc/kattila/agent.env; systemctl restart kattila-agent || true")
    fleet.on(AGENTS[0], "until systemctl is-failed kattila-agent; do sleep 0.1; done")
    return fleet.playbook("uninstall.yml", "-e", "kattila_uninstall=yes")


def test_nobody_is_asked_in_vain(fleet: Fleet, rolled_out: None) -> None:
    ran = fleet.playbook("uninstall.yml")
    assert ran.code != 0
    assert "nothing was removed" in ran.text
    assert set(fleet.on_all(AGENTS, "systemctl is-active kattila-agent").values()) == {"active"}


def test_all_is_removed(removal: Run) -> None:
    assert removal.code == 0, removal.text[-5000:]


def test_removing_it_again_changes_nothing(fleet: Fleet, removal: Run) -> None:
    again = fleet.playbook("uninstall.yml", "-e", "kattila_uninstall=yes", "--limit", f"{LAB.manager},{AGENTS[0]}")
    assert again.code == 0, again.text[-5000:]
    assert set(again.counts("changed").values()) == {0}, again.text[-5000:]


@pytest.mark.parametrize("node", NODES)
def test_the_disk_is_as_it_was_before(fleet: Fleet, untouched: dict[str, Disk], removal: Run, node: str) -> None:
    different = differences(fleet.disk(node), untouched[node])
    assert sorted(path for path in different if not NOT_OURS.match(path)) == []


# The slice of a template's instances goes with the boot.
@pytest.mark.parametrize(
    "what",
    ["getent passwd", "getent group", "systemctl list-units --all | grep -vF .slice", "ls /run", "ps -eo user,args"],
)
def test_nothing_of_it_is_left_in(fleet: Fleet, removal: Run, what: str) -> None:
    left = fleet.on_all((LAB.manager, *AGENTS), f"{what} | grep -F kattila | grep -vF 'grep' || true")
    assert left == dict.fromkeys(left, "")
