"""A removal takes the settings folder away only if it is empty, and a second removal prints no warning."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support.modules import PYTHON, ROOT, SKIPPED, tasks_in

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED)
NAMES = ("Check whether the settings folder is empty", "Remove the settings folder")


def removed(role: str, folder: Path, place: Path, *flags: str) -> str:
    """Run a role's tasks for the settings folder, with this folder in place of /etc/kattila. Return their output."""
    tasks = [task for task in tasks_in(ROOT / f"roles/{role}/tasks/absent.yml") if task["name"].startswith(NAMES)]
    assert len(tasks) == len(NAMES)
    variables = {
        "__kattila_manager_environment_file": "/etc/kattila/manager.env",
        "ansible_python_interpreter": str(PYTHON),
    }
    play = [{"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": tasks}]
    playbook = place / "play.yml"
    playbook.write_text(json.dumps(play).replace("/etc/kattila", str(folder)))
    words = [f"{PYTHON.parent}/ansible-playbook", "-i", "localhost,", "-c", "local", *flags, str(playbook)]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    text = ran.stdout + ran.stderr
    assert ran.returncode == 0, text
    assert "WARNING" not in text
    return text


@pytest.mark.parametrize("role", ["kattila_agent", "kattila_manager"])
def test_only_an_empty_settings_folder_is_removed(role: str, tmp_path: Path) -> None:
    folder = tmp_path / "kattila"
    folder.mkdir()
    (folder / ".other").touch()
    assert "changed=0" in removed(role, folder, tmp_path)
    (folder / ".other").unlink()
    assert "changed=1" in removed(role, folder, tmp_path, "--check")
    assert folder.exists()
    assert "changed=1" in removed(role, folder, tmp_path)
    assert not folder.exists()
    assert "changed=0" in removed(role, folder, tmp_path)
