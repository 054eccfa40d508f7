"""Builds what installs the manager offline: build_manager.py [--pythons 3.11 …] [--arches amd64 …] [--output FOLDER].

May live here: what goes into a tarball, and how it is written so that the same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import re
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from wheels import MACHINES, ROOT, BuildError, download, pins, pip, platforms

PYTHONS = ("3.11", "3.12", "3.13")
_OURS = ("protocol", "manager")
_INSTALLER = "pip"


def main() -> int:
    """Build what the command line asks for, else all; return the exit code."""
    parser = argparse.ArgumentParser(description="Build what installs the manager on a node, offline.")
    parser.add_argument("--pythons", nargs="+", default=PYTHONS, metavar="VERSION", help=f"default: {PYTHONS}")
    parser.add_argument("--arches", nargs="+", default=list(MACHINES), choices=list(MACHINES), metavar="ARCH")
    parser.add_argument("--output", type=Path, default=ROOT / "manager" / "bin", help="folder to write to")
    flags = parser.parse_args()
    wrong = [version for version in flags.pythons if re.fullmatch(r"3\.[0-9]+", version) is None]
    if wrong:
        parser.error(f"no version of Python, as in 3.11: {', '.join(wrong)}")
    try:
        for path in build(flags.pythons, flags.arches, flags.output):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
    except BuildError as error:
        print(f"build-manager: {error}", file=sys.stderr)
        return 1
    return 0


def build(pythons: Iterable[str], arches: Iterable[str], output: Path) -> Iterator[Path]:
    """Write `manager-ARCH-pyXY.tar.gz` for each pair and yield its path; raises BuildError."""
    output.mkdir(parents=True, exist_ok=True)
    pinned = pins(ROOT / "requirements" / "manager.txt") | pins(ROOT / "requirements" / "install.txt")
    check_markers(pinned)
    with tempfile.TemporaryDirectory() as scratch:
        ours = _build_ours(Path(scratch) / "ours")
        for python, arch in ((python, arch) for python in pythons for arch in arches):
            theirs = download(pinned, Path(scratch) / f"{python}-{arch}", _tags(python, arch))
            path = output / f"manager-{arch}-py{python.replace('.', '')}.tar.gz"
            yield _write(path, packed(_files([*ours, *theirs])))


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return a compressed tar of these files, the same bytes for the same files."""
    made = io.BytesIO()
    # Wheels are compressed already.
    with (
        gzip.GzipFile(filename="", fileobj=made, mode="wb", compresslevel=1, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o644
            target.addfile(entry, io.BytesIO(files[name]))
    return made.getvalue()


def version() -> str:
    """Return the manager's version."""
    return str(tomllib.loads((ROOT / "manager" / "pyproject.toml").read_text())["project"]["version"])


def _files(wheels: Iterable[Path]) -> dict[str, bytes]:
    contents = {wheel.name: wheel.read_bytes() for wheel in wheels}
    (installer,) = (contents.pop(name) for name in list(contents) if _project(name) == _INSTALLER)
    lines = sorted(_pin(name, content) for name, content in contents.items())
    return {f"wheels/{name}": content for name, content in contents.items()} | {
        # It is run as it is, and whoever installs need not know its version.
        "pip.whl": installer,
        "requirements.txt": "".join(lines).encode(),
        "VERSION": f"{version()}\n".encode(),
    }


def _pin(wheel: str, content: bytes) -> str:
    return f"{_project(wheel)}=={wheel.split('-')[1]} --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"


def _project(wheel: str) -> str:
    return wheel.split("-", maxsplit=1)[0].replace("_", "-").lower()


def _build_ours(target: Path) -> list[Path]:
    # "./protocol": without the dot pip would fetch a package of that name.
    sources = [f"{ROOT}/./{name}" for name in _OURS]
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), *sources)
    return sorted(target.glob("*.whl"))


def _tags(python: str, arch: str) -> dict[str, list[str]]:
    abi = f"cp{python.replace('.', '')}"
    return {
        "python-version": [python],
        "implementation": ["cp"],
        "abi": [abi, "abi3", "none"],
        "platform": platforms(arch),
    }


def check_markers(pinned: Mapping[str, str]) -> None:
    """Refuse a pin for some versions of Python only: pip would ask the Python that builds, not the node's."""
    unclear = [name for name, pin in pinned.items() if re.search(r";.*(python_version|python_full_version)", pin)]
    if unclear:
        raise BuildError(f"requirements that depend on the version of Python cannot be built: {', '.join(unclear)}")


def _write(path: Path, content: bytes) -> Path:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    aside.chmod(0o644)
    return aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
