"""A removed agent is forgotten by the manager, and its removal succeeds whatever the manager does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from support.modules import PYTHON, ROOT, SKIPPED, tasks_in

NAMES = ("Read the node's id", "Let the manager forget the node")
LOCAL, DEAD = "manager ansible_connection=local", "manager ansible_host=127.0.0.1 ansible_port=9"
CASES = {
    "the manager forgets the node": (LOCAL, 'cat >{called} <<<"$*"', True),
    "the manager does not know the node": (LOCAL, "exit 1", False),
    "the manager is of an older version": (LOCAL, "exit 2", False),
    "the manager is not installed": (LOCAL, None, False),
    "the manager is unreachable": (DEAD, "exit 0", False),
    "the inventory has no manager": (None, "exit 0", False),
}


@pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED)
@pytest.mark.parametrize("has_id", [True, False], ids=["installed", "removed before"])
@pytest.mark.parametrize("case", CASES)
def test_a_removal_calls_the_manager_and_never_fails(tmp_path: Path, case: str, has_id: bool) -> None:
    manager, script, is_called = CASES[case]
    called, program, id_file = tmp_path / "called", tmp_path / "kattila-manager", tmp_path / "agent_id.txt"
    if script is not None:
        program.write_text("#!/bin/bash\n" + script.format(called=called))
        program.chmod(0o755)
    if has_id:
        id_file.write_text("5f0c7a3e-1b2d-4c8e-9a6f-0123456789ab\n")
    lines = ["[kattila_agents]", "node ansible_connection=local", *(["[kattila_managers]", manager] if manager else [])]
    (tmp_path / "inventory.ini").write_text("\n".join(lines) + "\n")
    tasks = [task for task in tasks_in(ROOT / "roles/kattila_agent/tasks/absent.yml") if task["name"] in NAMES]
    assert [task["name"] for task in tasks] == list(NAMES)
    variables = {
        "__kattila_agent_id_file": str(id_file),
        "__kattila_agent_manager_command": str(program),
        "ansible_python_interpreter": str(PYTHON),
    }
    play = [{"hosts": "kattila_agents", "gather_facts": False, "vars": variables, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    done = subprocess.run(
        [PYTHON.with_name("ansible-playbook"), "-i", "inventory.ini", "play.yml"],
        cwd=tmp_path,
        env=os.environ | {"ANSIBLE_LOCALHOST_WARNING": "no"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("changed=1" in done.stdout) is (is_called and has_id), done.stdout
    if is_called and has_id:
        assert called.read_text() == "forget 5f0c7a3e-1b2d-4c8e-9a6f-0123456789ab\n"
    else:
        assert not called.exists()
