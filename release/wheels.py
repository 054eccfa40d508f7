"""Wheels of other machines than this one: what is pinned, and fetching it.

May live here: what both builds do with pip. Not here: what they make of the wheels.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What Debian, and so everybody's documentation, calls a machine; and what the kernel does.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# The C libraries of RHEL 8, Debian 10 and all that is newer; the names of wheels go back further.
_GLIBC = ("manylinux2010", "manylinux_2_12", "manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_28")


class BuildError(Exception):
    """Something cannot be built; the text says what, and why."""


def pins(path: Path) -> dict[str, str]:
    """Return each requirement of a pinned file, with its hashes, by its name."""
    blocks = re.findall(r"^[A-Za-z0-9][^\n]*(?:\n[ \t]+[^\n]*)*", path.read_text(), re.MULTILINE)
    return {re.split(r"[=\[ ;]", block, maxsplit=1)[0]: block for block in blocks}


def platforms(arch: str) -> list[str]:
    """Return the platform tags of wheels that run on Linux on such a machine."""
    return [f"{glibc}_{MACHINES[arch]}" for glibc in _GLIBC]


def download(requirements: Mapping[str, str], target: Path, tags: Mapping[str, Iterable[str]]) -> list[Path]:
    """Fetch a wheel of each requirement into `target`, hashes checked, and return them sorted.

    `tags` maps pip's options "python-version", "implementation", "abi" and "platform" to their values.

    Raises:
        BuildError: the index cannot be reached, has no such wheel, or one with another hash.
    """
    options = [word for option, values in tags.items() for value in values for word in (f"--{option}", value)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("\n".join(requirements.values()) + "\n")
        listed.flush()
        words = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(target), *options]
        pip("download", *words, "--requirement", listed.name)
    return sorted(target.glob("*.whl"))


def pip(command: str, *words: str) -> None:
    """Run pip; raises BuildError with what it said."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", "pip", command, "--quiet", "--disable-pip-version-check", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if not line.startswith("WARNING: Location")]
        raise BuildError(f"pip {command} failed; is the package index reached?\n" + "\n".join(said))
