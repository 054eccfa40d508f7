"""Creates network namespaces, with the links, addresses and routes that a test needs."""

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
    # As in reports: a backslash, which JSON doubles.
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"\\\\x{byte:02x}" for byte in error.object[error.start : error.end]), error.end


# ip writes the bytes of names into its JSON unchanged.
codecs.register_error("backslashreplace_in_json", _escaped)


class Namespace:
    """A network namespace by name; changes in it do not affect the host."""

    def __init__(self, name: str) -> None:
        """Take the name of an existing namespace."""
        self.name = name

    def ip(self, *words: str) -> None:
        """Run `ip` in the namespace; raises CalledProcessError."""
        subprocess.run(["ip", "-n", self.name, *words], check=True, capture_output=True, text=True)

    def has(self, *words: str) -> bool:
        """Run `ip` and return whether it succeeded: not every kernel supports every kind of link."""
        return subprocess.run(["ip", "-n", self.name, *words], check=False, capture_output=True).returncode == 0

    def ip_lines(self, lines: str, *words: str) -> list[str]:
        """Run `ip` with each of these lines, and return its errors, for kernels that lack a feature.

        If a line names a missing link, `ip` may skip the rest of its paragraph.
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
        """Return the entries that `ip -json -details` lists."""
        command = ["ip", "-n", self.name, "-json", "-details", *words]
        output = subprocess.check_output(command).decode("utf-8", "backslashreplace_in_json")
        # If a member appears twice, the first counts: a route has a "dst", and its encapsulation has another.
        first = lambda members: dict(reversed(members))  # noqa: E731 - a def would be three lines
        listed: list[dict[str, Any]] = json.loads(output or "[]", strict=False, object_pairs_hook=first)
        return [entry for entry in listed if entry]

    def command(self, *words: str) -> list[str]:
        """Return the command line that runs these words in the namespace."""
        return ["ip", "netns", "exec", self.name, *words]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Move this thread into the namespace; its sockets and child processes stay there."""
        with Path("/proc/thread-self/ns/net").open() as before, Path(f"/run/netns/{self.name}").open() as there:
            _set_network(there.fileno())
            try:
                yield
            finally:
                _set_network(before.fileno())


@contextmanager
def new_namespace() -> Iterator[Namespace]:
    """Create a namespace and remove it at the end; skips the test without permission."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("creating a network namespace requires root and iproute2")
    name = f"kattila-{uuid.uuid4().hex[:8]}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"cannot create a network namespace: {made.stderr.strip()}")
    try:
        # In a chroot that is not a mount point, a namespace can be created but not entered.
        entered = subprocess.run(["ip", "-n", name, "link"], check=False, capture_output=True, text=True)
        if entered.returncode != 0:
            pytest.skip(f"cannot enter a network namespace: {entered.stderr.strip()}")
        yield Namespace(name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _set_network(file: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
