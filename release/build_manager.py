"""Builds offline installers of the manager: build_manager.py [--pythons 3.11 …] [--arches amd64 …] [--output FOLDER].

The build is reproducible: the same sources give the same bytes.
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
    """Build the tarballs selected on the command line, or all; return the exit code."""
    parser = argparse.ArgumentParser(description="Build tarballs that install the manager on a node offline.")
    parser.add_argument("--pythons", nargs="+", default=PYTHONS, metavar="VERSION", help=f"default: {PYTHONS}")
    parser.add_argument("--arches", nargs="+", default=list(MACHINES), choices=list(MACHINES), metavar="ARCH")
    parser.add_argument("--output", type=Path, default=ROOT / "manager" / "bin", help="folder to write to")
    flags = parser.parse_args()
    wrong = [version for version in flags.pythons if re.fullmatch(r"3\.[0-9]+", version) is None]
    if wrong:
        parser.error(f"invalid Python version {', '.join(wrong)}: expected a version like 3.11")
    try:
        for path in build(flags.pythons, flags.arches, flags.output):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
    except BuildError as error:
        print(f"build-manager: {error}", file=sys.stderr)
        return 1
    return 0


def build(pythons: Iterable[str], arches: Iterable[str], output: Path) -> Iterator[Path]:
    """Write `manager-ARCH-pyXY.tar.gz` for each combination and yield its path; raises BuildError."""
    output.mkdir(parents=True, exist_ok=True)
    pinned = pins(ROOT / "requirements" / "manager.txt") | pins(ROOT / "requirements" / "install.txt")
    check_markers(pinned)
    with tempfile.TemporaryDirectory() as scratch:
        ours = _build_ours(Path(scratch) / "ours")
        for python, arch in ((python, arch) for python in pythons for arch in arches):
            theirs = download(pinned, Path(scratch) / f"{python}-{arch}", _tags(python, arch))
            path = output / f"manager-{arch}-py{python.replace('.', '')}.tar.gz"
            yield _write(path, compressed_tar(_files([*ours, *theirs])))


def compressed_tar(files: Mapping[str, bytes]) -> bytes:
    """Return a compressed tar of these files, always the same bytes for the same files."""
    output = io.BytesIO()
    # A low compression level is enough: wheels are compressed already.
    with (
        gzip.GzipFile(filename="", fileobj=output, mode="wb", compresslevel=1, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(files[name]), 0o644
            target.addfile(entry, io.BytesIO(files[name]))
    return output.getvalue()


def version() -> str:
    """Return the manager's version."""
    return str(tomllib.loads((ROOT / "manager" / "pyproject.toml").read_text())["project"]["version"])


def _files(wheels: Iterable[Path]) -> dict[str, bytes]:
    contents = {wheel.name: wheel.read_bytes() for wheel in wheels}
    (installer,) = (contents.pop(name) for name in list(contents) if _project(name) == _INSTALLER)
    lines = sorted(_pin(name, content) for name, content in contents.items())
    return {f"wheels/{name}": content for name, content in contents.items()} | {
        # pip runs directly from its wheel. The fixed name hides its version from the role.
        "pip.whl": installer,
        "requirements.txt": "".join(lines).encode(),
        "LICENSE": (ROOT / "LICENSE").read_bytes(),
        "VERSION": f"{version()}\n".encode(),
    }


def _pin(wheel: str, content: bytes) -> str:
    return f"{_project(wheel)}=={wheel.split('-')[1]} --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"


def _project(wheel: str) -> str:
    return wheel.split("-", maxsplit=1)[0].replace("_", "-").lower()


def _build_ours(target: Path) -> list[Path]:
    # "./protocol": without the dot, pip would download a package of that name.
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
    """Refuse pins for certain Python versions: pip would use the version of the build machine, not of the node."""
    dependent = [name for name, pin in pinned.items() if re.search(r";.*(python_version|python_full_version)", pin)]
    if dependent:
        raise BuildError(f"pins for certain Python versions are not supported: {', '.join(dependent)}")


def _write(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(0o644)
    return temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
