"""Tags select parts of a rollout: kattila_install, kattila_configure and kattila_run. The checks always run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.modules import PYTHON, ROOT, SKIPPED, tasks_in

FILES = sorted([*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/**/*.yml")])
PARTS = {"kattila_install", "kattila_configure", "kattila_run"}


def includes(path: Path) -> list[tuple[dict[str, Any], Any]]:
    """Return the dynamic includes in a file, each with its arguments."""
    modules = ("ansible.builtin.include_tasks", "ansible.builtin.include_role")
    return [(task, task[name]) for task in tasks_in(path) for name in modules if name in task]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tags_of_an_include_reach_its_tasks(path: Path) -> None:
    for task, arguments in includes(path):
        assert isinstance(arguments, dict), task["name"]
        assert arguments["apply"]["tags"], task["name"]
        # Without tags, the include has those of its block.
        assert task.get("tags", arguments["apply"]["tags"]) == arguments["apply"]["tags"], task["name"]


@pytest.mark.parametrize("role", ["kattila_agent", "kattila_manager"])
def test_each_part_of_a_role_has_its_tag_and_checks_always_run(role: str) -> None:
    found = {arguments["file"]: task["tags"] for task, arguments in includes(ROOT / f"roles/{role}/tasks/main.yml")}
    assert found["preflight.yml"] == found["absent.yml"] == ["always"]
    assert [found[f"{part}.yml"] for part in ("install", "configure", "service")] == [
        ["kattila_install"],
        ["kattila_configure"],
        ["kattila_run"],
    ]


@pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED)
@pytest.mark.parametrize("playbook", ["site", "agents", "manager"])
def test_ansible_lists_the_tags(playbook: str) -> None:
    words = [f"{PYTHON.parent}/ansible-playbook", "-i", "inventory.example", "--list-tags", f"playbooks/{playbook}.yml"]
    ran = subprocess.run(words, env=os.environ, capture_output=True, text=True, cwd=ROOT, check=True)
    listed = {tag for tags in re.findall(r"TASK TAGS: \[(.*)\]", ran.stdout) for tag in tags.split(", ")}
    assert listed >= PARTS
