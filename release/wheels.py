"""Reads pinned requirements, and downloads their wheels for any architecture and Python version."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Debian's name of an architecture, and the kernel's.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# Wheels with these tags run with the C libraries of RHEL 8, Debian 10 and newer.
_GLIBC = ("manylinux2010", "manylinux_2_12", "manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_28")


class BuildError(Exception):
    """A build failed; the text names the cause."""


def pins(path: Path) -> dict[str, str]:
    """Return the requirements in a pinned file by name, each with its version and hashes; none of Windows alone."""
    blocks = re.findall(r"^[A-Za-z0-9][^\n]*(?:\n[ \t]+[^\n]*)*", path.read_text(), re.MULTILINE)
    return {
        re.split(r"[=\[ ;]", block, maxsplit=1)[0]: block for block in blocks if "sys_platform == 'win32'" not in block
    }


def platforms(arch: str) -> list[str]:
    """Return the platform tags of wheels for Linux on an architecture."""
    return [f"{glibc}_{MACHINES[arch]}" for glibc in _GLIBC]


def download(requirements: Mapping[str, str], target: Path, tags: Mapping[str, Iterable[str]]) -> list[Path]:
    """Download a wheel of each requirement into `target`, verify its hash, and return the paths, sorted.

    `tags` maps pip's options "python-version", "implementation", "abi" and "platform" to their values.

    Raises:
        BuildError: The index cannot be reached, has no such wheel, or has one with a different hash.
    """
    options = [word for option, values in tags.items() for value in values for word in (f"--{option}", value)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements.values()) + "\n")
        file.flush()
        words = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(target), *options]
        pip("download", *words, "--requirement", file.name)
    return sorted(target.glob("*.whl"))


def pip(command: str, *words: str) -> None:
    """Run pip; raises BuildError with its error output."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", "pip", command, "--quiet", "--disable-pip-version-check", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING: Location")]
        raise BuildError(f"pip {command} failed: check that the package index can be reached\n" + "\n".join(lines))
