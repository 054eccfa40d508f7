"""Where a lab keeps what it has on this machine, and how all of that is named.

Each checkout has a lab of its own: the names begin with a prefix made from its path, so that two labs never meet.
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
        """Begins every name that this lab gives outside its folders: namespaces, cgroups."""
        return f"fleet-{hashlib.sha256(str(self.checkout).encode()).hexdigest()[:6]}-"

    @property
    def state(self) -> Path:
        """All of one lab: disks of nodes, keys, settings, logs. Removed with it."""
        return self.checkout / "tests/fleet/.lab"

    @property
    def cache(self) -> Path:
        """What outlives a lab: the root file system and the lock."""
        return self.checkout / "tests/fleet/.cache"

    @property
    def root(self) -> Path:
        """The root file system that all nodes share, under a layer of their own."""
        return self.cache / "root"

    @property
    def complete(self) -> Path:
        """There once the lab has come up."""
        return self.state / "complete"

    def name(self, machine: str) -> str:
        """The name of a machine's namespace, and of its control group."""
        return self.prefix + machine

    def node(self, machine: str) -> Path:
        """The folder of a node: its disk, what it says on its console."""
        return self.state / "nodes" / machine


def here() -> Place:
    """The lab of the checkout that this file is in."""
    return Place(Path(__file__).resolve().parent.parent.parent)
