"""verify.yml finds out whether agents run. Scripts answer for systemd and the manager."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.modules import PYTHON, ROOT, SKIPPED

pytestmark = [
    pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: places files of a node in a mount namespace"),
]
ID = "5f0c7a3e-1b2d-4c8e-9a6f-0123456789ab"
AGENT = {"agent_id": ID, "state": "reporting", "age_seconds": 1, "arrives": "direct", "fingerprint": "1938cb9f"}
INTERVAL = 2
# Longer than the interval, as on a manager under load.
REQUEST_SECONDS = 4
# Answers after a while, and notes each query. Its current key is another one until it was queried for agents.
MANAGER = """#!/bin/sh
if [ "$1" = keys ]; then
    if [ -s {folder}/requests ]; then key=1938cb9f; else key={first_key}; fi
    echo "{{\\"current\\": \\"$key\\"}}"
    exit
fi
sleep {seconds}
echo query >>{folder}/requests
cat {folder}/answer
"""
# Puts the node's programs and state where the playbook looks for them, seen only by the playbook.
INSIDE = """set -e
mkdir "$1/bin"
cp -a /usr/local/bin/. "$1/bin"
cp -a "$1/programs/." "$1/bin"
mount --bind "$1/bin" /usr/local/bin
mount --bind "$1/lib" /var/lib
shift
exec "$@"
"""


@dataclass(frozen=True)
class Verified:
    code: int
    text: str
    # The number of queries for the manager's agents.
    requests: int


def verified(
    folder: Path, unit: str, lead: int, sample: int | None = 41, first_key: str = "1938cb9f", **host: Any
) -> Verified:
    """Run verify.yml for one host. lead: how far the manager's newest sample is ahead of the host's counters.

    first_key: the manager's current key before it is queried for agents; empty if there is no manager.
    """
    (folder / "programs").mkdir()
    (folder / "lib/kattila-agent").mkdir(parents=True)
    (folder / "requests").touch()
    if sample is not None:
        (folder / "lib/kattila-agent/counters.json").write_text(
            json.dumps({"agent_id": ID, "sample": sample, "tick": sample})
        )
    answer = {"agents": [AGENT | {"highest_sample": (sample or 0) + lead}]}
    (folder / "answer").write_text(json.dumps(answer))
    programs = {
        "kattila-manager": MANAGER.format(seconds=REQUEST_SECONDS, folder=folder, first_key=first_key),
        "systemctl": f"#!/bin/sh\necho {unit}\n",
    }
    if not first_key:
        del programs["kattila-manager"]
    for name, text in programs.items():
        (folder / "programs" / name).write_text(text)
        (folder / "programs" / name).chmod(0o755)
    here = {"ansible_connection": "local", "ansible_python_interpreter": str(PYTHON)}
    groups: dict[str, Any] = {
        "kattila_managers": {"hosts": {"manager": here}},
        "kattila_agents": {"hosts": {"north-db": here | {"kattila_agent_interval": INTERVAL} | host}},
    }
    (folder / "hosts.json").write_text(json.dumps({"all": {"children": groups}}))
    playbook = [f"{PYTHON.parent}/ansible-playbook", "-i", f"{folder}/hosts.json", "playbooks/verify.yml"]
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", INSIDE, "sh", str(folder), *playbook],
        env=os.environ | {"PATH": f"/usr/local/bin:{os.environ['PATH']}", "ANSIBLE_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    requests = len((folder / "requests").read_text().splitlines())
    return Verified(ran.returncode, " ".join((ran.stdout + ran.stderr).split()), requests)


def test_an_agent_that_reports_is_verified(tmp_path: Path) -> None:
    ran = verified(tmp_path, "active", lead=1)
    assert (ran.code, ran.requests) == (0, 1), ran.text


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_a_stopped_agent_is_named_at_once_though_all_its_samples_arrived(tmp_path: Path, state: str) -> None:
    ran = verified(tmp_path, state, lead=0)
    assert ran.code != 0, ran.text
    assert f"kattila-agent.service is {state}" in ran.text
    assert "not reporting: north-db" in ran.text
    assert ran.requests == 1


def test_an_agent_that_hangs_is_named_after_three_intervals(tmp_path: Path) -> None:
    ran = verified(tmp_path, "active", lead=0)
    assert ran.code != 0, ran.text
    assert "sample 42 has not arrived" in ran.text
    # Three intervals end during the second request: they are seconds, not a number of requests.
    assert ran.requests <= 1 + 3 * INTERVAL // REQUEST_SECONDS


def test_a_host_without_an_agent_is_not_waited_for(tmp_path: Path) -> None:
    ran = verified(tmp_path, "inactive", lead=0, sample=None)
    assert ran.code != 0, ran.text
    assert "no agent on the host" in ran.text
    assert ran.requests == 1


def test_an_unreachable_host_is_not_waited_for(tmp_path: Path) -> None:
    ran = verified(tmp_path, "active", lead=1, ansible_connection="ssh", ansible_host="127.0.0.1", ansible_port=1)
    assert ran.code != 0, ran.text
    assert "unreachable for Ansible" in ran.text
    assert ran.requests == 1


def test_a_key_that_the_manager_learns_meanwhile_is_not_shown_as_previous(tmp_path: Path) -> None:
    ran = verified(tmp_path, "active", lead=1, first_key="7b2f3c10")
    assert ran.code == 0, ran.text
    assert "1938cb9f" in ran.text
    assert "(previous)" not in ran.text


def test_a_manager_that_is_not_installed_is_named_at_once(tmp_path: Path) -> None:
    ran = verified(tmp_path, "active", lead=0, first_key="")
    assert ran.code != 0, ran.text
    assert "failed on manager: it is not installed; roll it out with site.yml or manager.yml" in ran.text
    assert ran.requests == 0


def test_hosts_without_an_agent_by_their_variables_give_no_empty_table(tmp_path: Path) -> None:
    ran = verified(tmp_path, "inactive", lead=0, sample=None, kattila_agent_state="absent")
    assert ran.code == 0, ran.text
    assert "LAST REPORT" not in ran.text
