"""A folder of a service's user, who puts links in it, and a file of root that is to stay as it is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import kattila_agent
import kattila_manager
import kattila_protocol

# "nobody": a user without rights, who exists everywhere.
USER = 65534

# Arguments: a package, import paths, "--", and the arguments of the program.
_RUN = """
import importlib, sys
_, package, *words = sys.argv
end = words.index("--")
sys.path[:0] = words[:end]
sys.exit(importlib.import_module(f"{package}.__main__").main(words[end + 1 :]))
"""


class Victim:
    """A file outside of the service's folder, or a folder of such files; both belong to root."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = self._state()

    def assert_untouched(self) -> None:
        """Check that no file below the path has another content, mode, owner or name."""
        assert self._state() == self._before

    def _state(self) -> dict[str, tuple[int, int, int, bytes]]:
        files = [self.path, *self.path.rglob("*")] if self.path.is_dir() else [self.path]
        return {str(file): _status(file) for file in files}


def _status(path: Path) -> tuple[int, int, int, bytes]:
    found = path.lstat()
    return found.st_mode, found.st_uid, found.st_gid, path.read_bytes() if path.is_file() else b""


def program(package: str) -> list[str]:
    """Return the command of a package in a Python that every user can run; skips the test if there is none.

    The Python of this test may be in root's home.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}"):
        command = [python, "-c", _RUN, package, *_import_paths(), "--"]
        if _can_be_run_by_the_service(command):
            return command
    pytest.skip(f"the user nobody can run no {version} with the packages of this checkout")


def _can_be_run_by_the_service(command: list[str]) -> bool:
    try:
        done = subprocess.run(
            [*command, "--version"], cwd="/", user=USER, group=USER, extra_groups=[], capture_output=True, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def _import_paths() -> list[str]:
    packages = (kattila_protocol, kattila_agent, kattila_manager, pytest)
    return [str(Path(package.__file__ or "").parents[1]) for package in packages]


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Create a folder of root that every user can enter; skips the test without root.

    Not below pytest's folder, which another run of pytest may close to other users at any time.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can run commands in a folder of another user")
    with tempfile.TemporaryDirectory(prefix="kattila-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def folder_of_service(open_path: Path, name: str = "service") -> Path:
    """Create a folder of the service's user."""
    folder = open_path / name
    folder.mkdir(mode=0o700)
    os.chown(folder, USER, USER)
    return folder


def give(*paths: Path) -> None:
    """Give files, folders with all files in them, and links themselves to the service's user."""
    for path in paths:
        for each in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else (path,):
            os.lchown(each, USER, USER)


def link(place: Path, target: Path) -> None:
    """Put a link of the service's user in a place."""
    place.symlink_to(target)
    give(place)


def file_of_root(open_path: Path, content: bytes = b"of root\n", mode: int = 0o644) -> Victim:
    """Create a file of root."""
    path = open_path / "of-root"
    path.write_bytes(content)
    path.chmod(mode)
    return Victim(path)
