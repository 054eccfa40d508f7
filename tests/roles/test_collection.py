"""The collection kattila.status builds from the checkout, installs without a network, and finds all its parts."""

from __future__ import annotations

import os
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from support.modules import PYTHON, ROOT, SKIPPED

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=SKIPPED)
GALAXY = yaml.safe_load((ROOT / "galaxy.yml").read_text())
# Everything else in the checkout is not part of the collection.
CONTENTS = {"CHANGELOG.md", "LICENSE", "README.md", "inventory.example", "meta", "playbooks", "plugins", "roles"}
ADDED = {"FILES.json", "MANIFEST.json"}
LIST = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")


def ansible(program: str, folder: Path, *words: str) -> str:
    """Run a program of Ansible in a folder without our ansible.cfg, with a collection installed there."""
    settings = {"ANSIBLE_COLLECTIONS_PATH": f"{folder}/collections", "ANSIBLE_HOME": f"{folder}/home"}
    ran = subprocess.run(
        [f"{PYTHON.parent}/{program}", *words],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")} | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the collection, built from the files that git tracks, and from files that must stay out."""
    folder = tmp_path_factory.mktemp("built")
    checkout = folder / "checkout"
    tracked = subprocess.run(LIST, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout / name).write_bytes((ROOT / name).read_bytes())
    for name in (".env", ".venv/complete", "kattila_manager.db-wal", "agent/bin/agent-amd64", "inventory/hosts.yml"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("secret\n")
    ansible("ansible-galaxy", folder, "collection", "build", "--output-path", str(folder), str(checkout))
    return folder / f"kattila-status-{GALAXY['version']}.tar.gz"


@pytest.fixture(scope="module")
def installed(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder outside the checkout in which the collection is installed."""
    folder = tmp_path_factory.mktemp("installed")
    ansible("ansible-galaxy", folder, "collection", "install", "--offline", str(tarball))
    return folder


def test_it_contains_only_what_a_rollout_needs(tarball: Path) -> None:
    with tarfile.open(tarball) as file:
        names = [member.name for member in file.getmembers() if not member.isdir()]
    assert {name.split("/")[0] for name in names} == CONTENTS | ADDED
    assert [name for name in names if name.endswith((".pyc", ".tar.gz"))] == []


def test_every_module_and_filter_is_found_by_its_full_name(installed: Path) -> None:
    modules = {f"kattila.status.{path.stem}" for path in (ROOT / "plugins/modules").glob("*.py")}
    listed = ansible("ansible-doc", installed, "--list", "--type", "module", "kattila.status")
    assert {line.split()[0] for line in listed.splitlines() if line} == modules
    # An unknown filter ends the run.
    play = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: "{{ {} | kattila.status.report_status('') | kattila.status.report_table }}"
"""
    (installed / "filters.yml").write_text(play)
    assert "HOST" in ansible("ansible-playbook", installed, "-i", "localhost,", "filters.yml")


@pytest.mark.parametrize("playbook", sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml")))
def test_its_playbooks_find_its_roles_and_plugins(installed: Path, playbook: str) -> None:
    words = ("-i", str(ROOT / "inventory.example"), "--syntax-check", f"kattila.status.{playbook}")
    assert "playbook:" in ansible("ansible-playbook", installed, *words)


def test_another_playbook_can_use_its_roles(installed: Path) -> None:
    roles = [{"role": f"kattila.status.{path.name}"} for path in (ROOT / "roles").iterdir()]
    (installed / "own.yml").write_text(yaml.safe_dump([{"hosts": "all", "roles": roles}]))
    words = ("-i", str(ROOT / "inventory.example"), "--syntax-check", "own.yml")
    assert "playbook:" in ansible("ansible-playbook", installed, *words)


def test_version_and_licence_are_the_projects() -> None:
    manager = tomllib.loads((ROOT / "manager/pyproject.toml").read_text())["project"]
    assert (GALAXY["version"], GALAXY["license_file"]) == (manager["version"], "LICENSE")
    assert manager["license"] == "MIT"
    requires = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["requires_ansible"]
    roles = [yaml.safe_load(path.read_text())["galaxy_info"] for path in ROOT.glob("roles/*/meta/main.yml")]
    assert len(roles) == len(list((ROOT / "roles").iterdir()))
    assert {f">={role['min_ansible_version']}.0" for role in roles} == {requires}
    assert {role["license"] for role in roles} == {"MIT"}
