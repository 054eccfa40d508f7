"""An inventory that follows docs/OPERATIONS.md and inventory.example works in the lab."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from fleet.nodes import Fleet
from fleet.plan import ADMIN, LAB

AGENT = next(node for node in LAB.agents if node.login == ADMIN)

pytestmark = pytest.mark.usefixtures("rolled_out")


@pytest.fixture(scope="module")
def own_inventory(fleet: Fleet) -> Path:
    """Return a copy of inventory.example with the lab's settings from the documents, and with two of its nodes."""
    folder = fleet.place.state / "own"
    shutil.copytree(fleet.place.checkout / "inventory.example", folder)
    document = (fleet.place.checkout / "docs/OPERATIONS.md").read_text()
    section = document[document.index("### Your own inventory in the lab") :]
    described = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)
    assert described is not None
    general = folder / "group_vars/all.yml"
    general.write_text(json.dumps(yaml.safe_load(general.read_text()) | yaml.safe_load(described[1])))
    login = {"ansible_user": ADMIN, "ansible_become": True}
    sites = {AGENT.site: {"hosts": {AGENT.name: login}}}
    groups = {"kattila_managers": {"hosts": {LAB.manager: login}}, "kattila_agents": {"children": sites}}
    (folder / "hosts.yml").write_text(json.dumps({"all": {"children": groups}}))
    return folder


def test_the_rollout_accepts_it(fleet: Fleet, own_inventory: Path) -> None:
    ran = fleet.playbook("site.yml", "--check", "-i", str(own_inventory))
    assert ran.code == 0, ran.text[-5000:]


def test_verify_accepts_it(fleet: Fleet, own_inventory: Path) -> None:
    ran = fleet.playbook("verify.yml", "-i", str(own_inventory))
    assert ran.code == 0, ran.text[-5000:]
