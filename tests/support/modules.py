"""Reads the tasks of roles, and runs a module as Ansible does, with the Python of .venv-deploy."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
PYTHON = ROOT / ".venv-deploy/bin/python"
SKIPPED = f"Ansible is not installed: make setup-deploy creates {PYTHON.parent.parent.name}"


@dataclass(frozen=True)
class Answer:
    """The result of a module, and its complete output."""

    members: dict[str, Any]
    text: str

    @property
    def changed(self) -> bool:
        return bool(self.members["changed"])


def run_module(name: str, *, check: bool = False, **arguments: Any) -> Answer:
    """Run `plugins/modules/NAME.py`, and return its result."""
    request = {"ANSIBLE_MODULE_ARGS": arguments | {"_ansible_check_mode": check, "_ansible_diff": True}}
    done = subprocess.run(
        [PYTHON, ROOT / "plugins/modules" / f"{name}.py"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Answer(json.loads(done.stdout), done.stdout + done.stderr)


def tasks_in(path: Path) -> list[dict[str, Any]]:
    """Return all tasks of a file with tasks or plays, also those in blocks."""
    return list(_flattened(yaml.safe_load(path.read_text())))


def _flattened(found: list[dict[str, Any]] | None) -> Iterator[dict[str, Any]]:
    for task in found or []:
        yield task
        for section in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks"):
            yield from _flattened(task.get(section))
