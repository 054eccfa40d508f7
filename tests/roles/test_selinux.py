"""Both roles restore the SELinux labels of what they install, but only where SELinux is on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.modules import PYTHON, ROOT, SKIPPED, tasks_in

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED)
FOLDERS = {"kattila_agent": "/opt/kattila-agent", "kattila_manager": "/opt/kattila-manager/0.1.0-12345678"}
TASK = "Restore the SELinux labels of the installed files"


def relabelled(folder: Path, role: str, facts: Any, output: str = "") -> tuple[str, bool]:
    """Run the role's task with these facts about SELinux; return restorecon's arguments and whether it is a change."""
    program = folder / "restorecon"
    program.write_text(f"#!/bin/sh\necho \"$@\" >{folder}/arguments\necho '{output}'\n")
    program.chmod(0o755)
    (task,) = (
        task for task in tasks_in(ROOT / f"roles/{role}/tasks/install.yml")
        if task["name"] == TASK
    )  # fmt: skip
    facts_task = {"ansible.builtin.set_fact": {"selinux": facts, "cacheable": True}} if facts is not None else {}
    play: dict[str, Any] = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"__kattila_manager_folder": FOLDERS["kattila_manager"], "ansible_python_interpreter": str(PYTHON)},
        "tasks": [*([facts_task] if facts_task else []), task],
    }
    (folder / "play.yml").write_text(json.dumps([play]))
    ran = subprocess.run(
        [f"{PYTHON.parent}/ansible-playbook", "-i", "localhost,", "-c", "local", str(folder / "play.yml")],
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    arguments = folder / "arguments"
    return arguments.read_text().strip() if arguments.exists() else "", "changed=1" in ran.stdout


@pytest.mark.parametrize("role", FOLDERS)
@pytest.mark.parametrize("output", ["", "Relabeled /opt/x from a to b"])
def test_labels_are_restored_where_selinux_is_on(tmp_path: Path, role: str, output: str) -> None:
    arguments, changed = relabelled(tmp_path, role, {"status": "enabled", "mode": "permissive"}, output)
    assert arguments.startswith("-R")
    assert FOLDERS[role] in arguments.split()
    assert changed == (output != "")


@pytest.mark.parametrize("role", FOLDERS)
@pytest.mark.parametrize("facts", [None, {}, {"status": "disabled"}, {"status": "Missing selinux Python library"}])
def test_nothing_is_run_where_selinux_is_off(tmp_path: Path, role: str, facts: Any) -> None:
    assert relabelled(tmp_path, role, facts) == ("", False)
