"""Folders and names of a lab on this machine.

Each checkout has its own lab. All names begin with a prefix made from the checkout's path, so that labs never collide.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """The folders and names of the lab of one checkout."""

    checkout: Path

    @property
    def prefix(self) -> str:
        """Return the prefix of all names outside the lab's folders: namespaces and control groups."""
        return f"fleet-{hashlib.sha256(str(self.checkout).encode()).hexdigest()[:6]}-"

    @property
    def state(self) -> Path:
        """Return the lab's folder: disks, keys, settings and logs. It is removed with the lab."""
        return self.checkout / "tests/fleet/.lab"

    @property
    def cache(self) -> Path:
        """Return the folder that outlives the lab: the root file system and the lock."""
        return self.checkout / "tests/fleet/.cache"

    @property
    def root(self) -> Path:
        """Return the root file system, the lower overlay layer of all nodes."""
        return self.cache / "root"

    @property
    def complete(self) -> Path:
        """Return the stamp file that exists once the lab has come up."""
        return self.state / "complete"

    def name(self, machine: str) -> str:
        """Return the name of a machine's namespace and control group."""
        return self.prefix + machine

    def node(self, machine: str) -> Path:
        """Return the folder of a node, with its disk and console output."""
        return self.state / "nodes" / machine


def here() -> Place:
    """Return the lab of this file's checkout."""
    return Place(Path(__file__).resolve().parent.parent.parent)
