"""A network namespace that a test made, with links, addresses and routes of its choice."""

from __future__ import annotations

import codecs
import ctypes
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# linux/sched.h; os.setns comes with Python 3.12.
_CLONE_NEWNET = 0x40000000


def _escaped(error: UnicodeError) -> tuple[str, int]:
    # As reports show them: a backslash, which JSON wants doubled.
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"\\\\x{byte:02x}" for byte in error.object[error.start : error.end]), error.end


# ip takes the bytes of names into its JSON as they are.
codecs.register_error("backslashreplace_in_json", _escaped)


class Namespace:
    """A network namespace by name; what is done in it does not reach the host."""

    def __init__(self, name: str) -> None:
        """Take the name of one that exists."""
        self.name = name

    def ip(self, *words: str) -> None:
        """Run `ip` in it; raises CalledProcessError with its message."""
        subprocess.run(["ip", "-n", self.name, *words], check=True, capture_output=True, text=True)

    def has(self, *words: str) -> bool:
        """Run `ip` in it and tell whether that worked: not every kernel has every kind of link."""
        return subprocess.run(["ip", "-n", self.name, *words], check=False, capture_output=True).returncode == 0

    def ip_lines(self, lines: str, *words: str) -> list[str]:
        """Run `ip` with each of these lines, and return what it says of those that this kernel cannot do.

        Where a line names a link that is not there, `ip` may leave out the rest of its paragraph.
        """
        command = ["ip", "-n", self.name, *words, "-force", "-batch", "-"]
        return [
            f"{paragraph.splitlines()[0]}: {line}"
            for paragraph in lines.strip().split("\n\n")
            for line in subprocess.run(
                command, input=paragraph, check=False, capture_output=True, text=True
            ).stderr.splitlines()
            if line and not line.startswith("Command failed")
        ]

    def listed(self, *words: str) -> list[dict[str, Any]]:
        """Return what `ip -json -details` lists in it."""
        command = ["ip", "-n", self.name, "-json", "-details", *words]
        said = subprocess.check_output(command).decode("utf-8", "backslashreplace_in_json")
        # Of a member that stands twice the first counts: the "dst" of a route, then that of its encapsulation.
        first = lambda members: dict(reversed(members))  # noqa: E731 - one line of another
        listed: list[dict[str, Any]] = json.loads(said or "[]", strict=False, object_pairs_hook=first)
        return [entry for entry in listed if entry]

    def command(self, *words: str) -> list[str]:
        """Return the command that runs these words in it."""
        return ["ip", "netns", "exec", self.name, *words]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let this thread be in it: the sockets that it opens and the processes that it starts stay there."""
        with Path("/proc/thread-self/ns/net").open() as before, Path(f"/run/netns/{self.name}").open() as there:
            _set_network(there.fileno())
            try:
                yield
            finally:
                _set_network(before.fileno())


@contextmanager
def new_namespace() -> Iterator[Namespace]:
    """Make a namespace and remove it at the end. Skips where that is not allowed."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making a network namespace needs root and iproute2")
    name = f"kattila-{uuid.uuid4().hex[:8]}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
    try:
        # In a chroot that is no mount point one can be made and not be entered.
        entered = subprocess.run(["ip", "-n", name, "link"], check=False, capture_output=True, text=True)
        if entered.returncode != 0:
            pytest.skip(f"no network namespace can be entered here: {entered.stderr.strip()}")
        yield Namespace(name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _set_network(file: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
