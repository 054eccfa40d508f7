"""Builds the agent as one file per architecture: build_agent.py [--output FOLDER] [ARCH ...].

The build is reproducible: the same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import os
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from onefile.libraries import SUFFIX
from onefile.start import MACHINE_FILE
from wheels import MACHINES, ROOT, BuildError, download, pins, platforms

SHEBANG = b"#!/usr/bin/env python3\n"
OLDEST_PYTHON = "3.11"
# Packages that are not pure Python. Each needs a wheel for the stable ABI.
COMPILED = frozenset({"psutil"})

_OURS = (
    ROOT / "protocol" / "kattila_protocol",
    ROOT / "protocol" / "kattila_keys",
    ROOT / "protocol" / "kattila_settings",
    ROOT / "agent" / "kattila_agent",
    ROOT / "release" / "onefile",
)
# The earliest time that a zip file can store.
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
_CERTIFICATES = b"from onefile.certificates import where as where\n"
# pyroute2's own package imports all of it: 160 modules and 12 MiB of memory. The agent uses only these.
_PYROUTE2_PACKAGE = b'"""Replaces the module of pyroute2 that imports all others."""\n'
_PYROUTE2 = frozenset(
    (
        "__init__.py",
        "common.py",
        "config/__init__.py",
        "netlink/__init__.py",
        "netlink/exceptions.py",
        *(f"netlink/rtnl/{name}.py" for name in ("__init__", "fibmsg", "ifaddrmsg", "ifstatsmsg", "iw_event")),
        "netlink/rtnl/ndmsg.py",
        "netlink/rtnl/rtmsg.py",
        "netlink/rtnl/ifinfmsg/__init__.py",
    )
)
_PYROUTE2_PLUGINS = "netlink/rtnl/ifinfmsg/plugins/"
_PURE = {"python-version": [OLDEST_PYTHON], "implementation": ["py"], "abi": ["none"], "platform": ["any"]}


def main() -> int:
    """Build for the architectures on the command line, or for all; return the exit code."""
    parser = argparse.ArgumentParser(description="Build the agent as one file per architecture.")
    parser.add_argument("--output", type=Path, default=ROOT / "agent" / "bin", help="folder to write to")
    parser.add_argument("arch", nargs="*", metavar="ARCH", help=f"one of {', '.join(MACHINES)} (default: all)")
    flags = parser.parse_args()
    unknown = set(flags.arch) - MACHINES.keys()
    if unknown:
        parser.error(f"unknown architecture {', '.join(sorted(unknown))}: choose from {', '.join(MACHINES)}")
    try:
        for path in build(flags.arch or list(MACHINES), flags.output):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    except BuildError as error:
        print(f"build-agent: {error}", file=sys.stderr)
        return 1
    return 0


def build(arches: Iterable[str], output: Path) -> Iterator[Path]:
    """Write `agent-ARCH` for each architecture and yield its path; raises BuildError."""
    output.mkdir(parents=True, exist_ok=True)
    pinned = pins(ROOT / "requirements" / "agent.txt")
    with tempfile.TemporaryDirectory() as scratch:
        pure = {name: pin for name, pin in pinned.items() if name not in COMPILED}
        common = _ours() | _theirs(download(pure, Path(scratch) / "pure", _PURE))
        for arch in arches:
            wheels = download(
                {name: pinned[name] for name in COMPILED},
                Path(scratch) / arch,
                {
                    "python-version": [OLDEST_PYTHON],
                    "implementation": ["cp"],
                    "abi": ["abi3"],
                    "platform": platforms(arch),
                },
            )
            special = {
                MACHINE_FILE: MACHINES[arch].encode(),
                "requests/certs.py": _CERTIFICATES,
                "pyroute2/__init__.py": _PYROUTE2_PACKAGE,
            }
            yield _write(output / f"agent-{arch}", executable_zip(common | _theirs(wheels) | special))


def executable_zip(files: dict[str, bytes]) -> bytes:
    """Return an executable zip of these files, always the same bytes for the same files."""
    output = io.BytesIO()
    output.write(SHEBANG)
    with zipfile.ZipFile(output, "w", compresslevel=9) as target:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
            entry.create_system = 3  # Unix, on any build machine
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            target.writestr(entry, files[name], zipfile.ZIP_DEFLATED)
    return output.getvalue()


def _ours() -> dict[str, bytes]:
    files = {
        str(path.relative_to(package.parent)): path.read_bytes() for package in _OURS for path in package.rglob("*.py")
    }
    licence = (ROOT / "LICENSE").read_bytes()
    return files | {"__main__.py": files.pop("onefile/__main__.py"), "LICENSE": licence}


def _theirs(wheels: Iterable[Path]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as source:
            files |= {name: source.read(name) for name in source.namelist() if is_needed(name)}
    return files


def is_needed(name: str) -> bool:
    """Return whether the agent's file needs a file of a wheel: code, data that code reads, or a licence.

    The Apache licence requires the NOTICE to go with the code.
    """
    folder, _, rest = name.partition("/")
    if folder.endswith(".dist-info"):
        # pyroute2 has two licences. This project chooses Apache-2.0.
        return ("LICENSE" in rest.upper() or "NOTICE" in rest.upper()) and "GPL" not in rest
    if folder == "pyroute2" and rest not in _PYROUTE2 and not rest.startswith(_PYROUTE2_PLUGINS):
        return False
    if folder.endswith(".data") or "/tests/" in name:
        return False
    return name.endswith((".py", SUFFIX, ".pem"))


def _write(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(0o755)
    return temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
