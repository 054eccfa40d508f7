"""A fleet as values, whose nodes change and report; for tests of the index of keys and of all tunnels.

Keys are a letter with a number, so tests can read them. Every report moves the node's counters as a test wants.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kattila_manager.topology.facts import Facts, PeerFacts, Reading, WireguardFacts
from support.fleet import NOON, SECOND

STEP = 30 * SECOND


@dataclass
class Link:
    """A WireGuard interface: its key and its peers, with the counters (rx, tx) and the handshake (s) of each."""

    key: str
    peers: dict[str, list[int]] = field(default_factory=dict)
    is_up: bool = True
    is_cut: bool = False
    keepalive: int = 25


@dataclass
class FleetNode:
    """A node with its interfaces, by name."""

    agent_id: str
    links: dict[str, Link] = field(default_factory=dict)
    sample: int = 0
    boot_id: str = "boot"
    hardware: frozenset[str] = frozenset()
    is_unreadable: bool = False

    def report(self, at: int, *, is_late: bool = False) -> Facts:
        """Return the facts of the node's next report."""
        self.sample += 1
        return Facts(
            self.agent_id,
            self.sample,
            at,
            f"{self.boot_id} of {self.agent_id}" if self.boot_id == "boot" else self.boot_id,
            is_late,
            self.is_unreadable,
            self.hardware,
            () if self.is_unreadable else tuple(self._facts(name, at) for name in self.links),
        )

    def _facts(self, name: str, at: int) -> WireguardFacts:
        link = self.links[name]
        peers = [
            PeerFacts(key, "192.0.2.1:51820", link.keepalive, False, rx, tx, handshake)
            for key, (rx, tx, handshake) in link.peers.items()
        ]
        shown = peers[:1] if link.is_cut else peers
        reading = Reading(at, STEP, at, self.boot_id, 5)
        return WireguardFacts(name, link.key, link.is_up, link.is_cut, 0, reading, tuple(shown))


def exchange(links: Iterable[Link], at: int) -> None:
    """Let the counters of all peers grow, and complete a handshake at `at`."""
    for link in links:
        for counters in link.peers.values():
            counters[0] += 148
            counters[1] += 148
            counters[2] = at // SECOND


def healthy_pair() -> tuple[FleetNode, FleetNode]:
    """Return the nodes a and b, which list each other."""
    one = FleetNode("a", {"wg0": Link("ka", {"kb": [0, 0, NOON // SECOND]})})
    other = FleetNode("b", {"wg0": Link("kb", {"ka": [0, 0, NOON // SECOND]})})
    return one, other
