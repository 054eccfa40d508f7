"""The manager's tarball: it is reproducible, installs without a network, and the installed manager works."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import build_manager
from build_manager import check_markers
from support.manager import Manager
from support.netns import new_namespace
from wheels import MACHINES, ROOT, BuildError, pins

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
HERE = {machine: arch for arch, machine in MACHINES.items()}.get(platform.machine(), "amd64")
VERSION = tomllib.loads((ROOT / "manager" / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the tarball for this Python on this machine."""
    (path,) = build_manager.build([PYTHON], [HERE], tmp_path_factory.mktemp("built"))
    return path


@pytest.fixture(scope="module")
def program(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the path of `kattila-manager`, installed like the role does it, in a namespace without a network."""
    unpacked, venv = tmp_path_factory.mktemp("unpacked"), tmp_path_factory.mktemp("opt") / VERSION
    subprocess.run(["tar", "-xzf", str(tarball), "-C", str(unpacked)], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    words = ["install", "--no-index", "--find-links", "wheels", "--require-hashes", "--quiet", "-r", "requirements.txt"]
    with new_namespace() as cut_off:
        done = subprocess.run(
            cut_off.command(str(venv / "bin" / "python"), str(unpacked / "pip.whl" / "pip"), *words),
            cwd=unpacked,
            env={"HOME": "/nonexistent", "PATH": os.defpath, "PIP_CONFIG_FILE": os.devnull},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not (venv / "bin" / "pip").exists()
    yield venv / "bin" / "kattila-manager"


def test_the_build_is_reproducible(tarball: Path, tmp_path: Path) -> None:
    (again,) = build_manager.build([PYTHON], [HERE], tmp_path)
    assert again.name == f"manager-{HERE}-py{PYTHON.replace('.', '')}.tar.gz"
    assert again.read_bytes() == tarball.read_bytes()


def test_the_tarball_contains_all_pinned_packages(tarball: Path) -> None:
    with tarfile.open(tarball) as file:
        names = file.getnames()
        pins_file = file.extractfile("requirements.txt")
        version_file = file.extractfile("VERSION")
        assert pins_file is not None and version_file is not None
        requirements, version_line = pins_file.read().decode(), version_file.read()
    assert version_line == f"{VERSION}\n".encode()
    others = ["LICENSE", "VERSION", "pip.whl", "requirements.txt"]
    assert [name for name in names if not name.startswith("wheels/")] == others
    pinned = pins(ROOT / "requirements" / "manager.txt").keys() | {"kattila-manager", "kattila-protocol"}
    assert {line.partition("==")[0] for line in requirements.splitlines()} == pinned
    assert len(names) == len(pinned) + len(others)


@pytest.mark.parametrize("arch", MACHINES)
def test_wheels_match_the_python_version_and_the_machine(arch: str, tmp_path: Path) -> None:
    (path,) = build_manager.build(["3.13"], [arch], tmp_path)
    with tarfile.open(path) as file:
        compiled = [name for name in file.getnames() if name.startswith("wheels/") and "-none-any" not in name]
    assert compiled
    assert [name for name in compiled if "-cp313-" not in name or not name.endswith(f"_{MACHINES[arch]}.whl")] == []


def test_the_installed_manager_prints_its_version(program: Path) -> None:
    output = subprocess.check_output([program, "--version"], text=True, env={"PATH": os.defpath})
    assert output == f"kattila-manager {VERSION}\n"


def test_the_installed_manager_serves_publishes_and_checks(program: Path, tmp_path: Path) -> None:
    manager = Manager(tmp_path, program=[str(program)], workers=1)
    try:
        manager.start()
        assert manager.get("/status/healthcheck").members == {"status": "ok", "version": VERSION}
        published = manager.command("publish", "--once")
        assert published.returncode == 0, published.stderr
        # Needs the templates in the wheel.
        assert b"<html" in manager.get("/").body
        checked = manager.command("check")
    finally:
        manager.kill()
    # The check fails only because DNS does not answer here; it still shows the database.
    assert checked.returncode == 1
    assert "kattila_manager.db" in checked.stdout, checked


def test_a_pin_for_certain_python_versions_is_refused() -> None:
    check_markers({"uvloop": "uvloop==1 ; sys_platform != 'win32'"})
    with pytest.raises(BuildError, match="pins for certain Python versions are not supported: old"):
        check_markers({"old": "old==1 ; python_full_version < '3.12'"})
