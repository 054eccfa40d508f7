"""Playbooks refuse an inventory that does not have exactly one manager, before they contact any node."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.modules import PYTHON, ROOT, SKIPPED

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED)


@pytest.mark.parametrize("playbook", ["site", "agents", "verify"])
@pytest.mark.parametrize("managers", [[], ["first.example.com", "second.example.com"]], ids=["none", "two"])
def test_the_inventory_is_refused(tmp_path: Path, playbook: str, managers: list[str]) -> None:
    hosts = {"kattila_managers": managers, "kattila_agents": ["north-db.example.com"]}
    groups: dict[str, Any] = {group: {"hosts": {name: {} for name in members}} for group, members in hosts.items()}
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"all": {"children": groups}}))
    words = [f"{PYTHON.parent}/ansible-playbook", "-i", f"{inventory}", f"playbooks/{playbook}.yml"]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode != 0
    assert f"has {len(managers)} hosts: list exactly one manager" in " ".join(ran.stdout.split())
    assert "unreachable=0" in ran.stdout
    # The message is readable: YAML, not a line of JSON.
    assert re.search(r"^ +msg: ", ran.stdout, re.MULTILINE)
