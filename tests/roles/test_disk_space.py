"""A full disk is refused once, however many of the manager's folders are on it, and the variable is named."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.modules import PYTHON, ROOT, SKIPPED, tasks_in

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED)
ROLE = ROOT / "roles/kattila_manager"
TASK = "Refuse a disk with too little free space"
PROGRAMS, DATA, BACKUPS = "/opt/kattila-manager", "/var/lib/kattila-manager", "/var/backups/kattila-manager"


def refusals(folder: Path, space: dict[str, tuple[int, int]], used_mib: int = 0, free_mib: int = 500) -> list[str]:
    """Run the role's check of the disks, and return its messages.

    space: by folder the number of its disk, and the free MiB of that disk. used_mib: size of the database.
    """
    tasks = tasks_in(ROLE / "tasks/preflight.yml")
    found = {
        name: {"disk": disk, "free_mib": free, "used_mib": used_mib if name == DATA else 0}
        for name, (disk, free) in space.items()
    }
    play: dict[str, Any] = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(ROLE / "vars/main.yml")],
        "vars": {"__kattila_manager_node": {"space": found}, "kattila_manager_free_mib": free_mib},
        "tasks": [task for task in tasks if task["name"] == TASK],
    }
    playbook = folder / "play.yml"
    playbook.write_text(json.dumps([play]))
    words = [f"{PYTHON.parent}/ansible-playbook", "-i", "localhost,", "-c", "local", str(playbook)]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    text = " ".join((ran.stdout + ran.stderr).split())
    assert (ran.returncode == 0) == ("failed=0" in text), text
    # Ansible warns if a loop consists of groupby's own tuples.
    assert "unsupported in variable storage" not in text
    return re.findall(r"\bmsg: '?(the disk of .*?lower kattila_manager_free_mib)", text)


def test_enough_space_is_not_refused(tmp_path: Path) -> None:
    assert refusals(tmp_path, {PROGRAMS: (1, 500), DATA: (1, 500), BACKUPS: (1, 500)}) == []


@pytest.mark.parametrize("free", [0, 499])
def test_a_full_disk_with_all_folders_gives_one_refusal(tmp_path: Path, free: int) -> None:
    (refusal,) = refusals(tmp_path, {PROGRAMS: (1, free), DATA: (1, free), BACKUPS: (1, free)})
    assert f"{PROGRAMS}, {DATA}, {BACKUPS} has {free} MiB free, but 500 MiB are needed" in refusal


def test_the_space_for_a_backup_is_named(tmp_path: Path) -> None:
    (refusal,) = refusals(tmp_path, {PROGRAMS: (1, 550), DATA: (1, 550), BACKUPS: (1, 550)}, used_mib=100)
    assert "550 MiB free, but 600 MiB are needed" in refusal
    assert "kattila_manager_free_mib: 500, and 100 for a backup of the database" in refusal


def test_every_full_disk_gives_a_refusal_of_its_own(tmp_path: Path) -> None:
    first, second = refusals(
        tmp_path, {PROGRAMS: (7, 9), DATA: (8, 600), BACKUPS: (9, 600)}, used_mib=200, free_mib=450
    )
    assert f"the disk of {PROGRAMS} has 9 MiB free, but 450" in first
    assert f"the disk of {BACKUPS} has 600 MiB free, but 650" in second


def test_a_backup_folder_on_its_own_disk_needs_no_space_elsewhere(tmp_path: Path) -> None:
    (refusal,) = refusals(tmp_path, {PROGRAMS: (1, 500), DATA: (1, 500), BACKUPS: (2, 599)}, used_mib=100)
    assert f"the disk of {BACKUPS} has" in refusal
