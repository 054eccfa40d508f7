"""`make verify` names a node that SSH cannot reach, and the cause, instead of showing tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from support.modules import PYTHON, ROOT, SKIPPED


@pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED)
def test_an_unreachable_node_is_named_with_the_cause(tmp_path: Path) -> None:
    dead = {"ansible_host": "127.0.0.1", "ansible_port": 1}
    groups = {name: {"hosts": {"north-db": dead}} for name in ("kattila_managers", "kattila_agents")}
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"all": {"children": groups}}))
    words = ["tests/deploy/test_agent.py", "-k", "starts_at_boot", f"--ansible-inventory={inventory}"]
    ran = subprocess.run(
        [PYTHON, "-m", "pytest", "-p", "no:cacheprovider", *words],
        env=os.environ | {"PATH": f"{PYTHON.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "north-db cannot be reached: ssh: connect to host 127.0.0.1 port 1: Connection refused" in ran.stdout
    assert "conftest.py" not in ran.stdout
