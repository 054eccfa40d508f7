"""The kept facts of each agent: its WireGuard interfaces, their peers, and the evidence of each peer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kattila_manager.topology.facts import Facts, PeerFacts, WireguardFacts
from kattila_manager.topology.wireguard.ends import Standing, View
from kattila_manager.topology.wireguard.evidence import fold
from kattila_manager.topology.wireguard.owners import Pair, pair_of


@dataclass(slots=True)
class InterfaceViews:
    """An interface of an agent with its views, by the peer's key.

    `first_at` is the first sample with this interface and key, `at` the newest one. `just_removed` are the peers that
    the newest sample was the first to lack.
    """

    name: str
    key: str
    first_at: int
    at: int
    is_up: bool = True
    is_cut: bool = False
    fwmark: int = 0
    views: dict[str, View] = field(default_factory=dict)
    just_removed: frozenset[str] = frozenset()

    def put(self, facts: WireguardFacts) -> None:
        """Fold the next sample."""
        self.at, self.is_cut, self.fwmark = facts.reading.at, facts.is_cut, facts.fwmark
        if facts.is_up is not None:
            self.is_up = facts.is_up
        before = self.views
        views = {peer.key: _view(before.get(peer.key), facts, peer) for peer in facts.peers if peer.key != self.key}
        removed = before.keys() - views.keys()
        if facts.is_cut:
            # A peer that is missing from an incomplete list is unknown, not removed.
            views.update({key: before[key] for key in sorted(removed)})
        else:
            self.just_removed = frozenset(removed)
        self.views = views


def _view(before: View | None, facts: WireguardFacts, peer: PeerFacts) -> View:
    known = None if before is None else before.evidence
    evidence = fold(known, facts.reading, peer.rx, peer.tx, peer.latest_handshake)
    listed_at = facts.reading.at if before is None else before.listed_at
    return View(peer.keepalive, peer.endpoint, peer.has_preshared_key, listed_at, evidence)


@dataclass(slots=True)
class AgentViews:
    """An agent's newest facts. Its presence is FRESH, SILENT or UNHEARD."""

    agent_id: str
    sample: int = 0
    at: int = 0
    boot_id: str = ""
    hardware: frozenset[str] = frozenset()
    is_late: bool = False
    is_unreadable: bool = False
    presence: Standing = Standing.FRESH
    interfaces: dict[str, InterfaceViews] = field(default_factory=dict)

    def put(self, facts: Facts) -> None:
        """Take the facts of the next sample; those of a late sample only show that it was late."""
        self.sample, self.is_late = facts.sample, facts.is_late
        if facts.is_late:
            return
        self.at, self.boot_id, self.hardware = facts.at, facts.boot_id, facts.hardware
        self.is_unreadable = facts.is_unreadable
        if facts.is_unreadable:
            return
        known = self.interfaces
        self.interfaces = {}
        for each in facts.wireguard:
            interface = known.get(each.name)
            if interface is None or interface.key != each.key:
                interface = InterfaceViews(each.name, each.key, facts.at, facts.at)
            interface.put(each)
            self.interfaces[each.name] = interface

    def standing(self, interface: InterfaceViews | None) -> Standing:
        """Return whether the newest sample of an interface counts as evidence."""
        if self.presence is not Standing.FRESH:
            return self.presence
        if self.is_late:
            return Standing.LATE
        is_unreadable = self.is_unreadable or (interface is not None and interface.is_cut)
        return Standing.UNREADABLE if is_unreadable else Standing.FRESH

    def keys(self) -> Mapping[str, tuple[str, ...]]:
        """Return the agent's public keys with the interfaces that have them, sorted."""
        keys: dict[str, tuple[str, ...]] = {}
        for name in sorted(self.interfaces):
            # An interface without a private key has no public key.
            if key := self.interfaces[name].key:
                keys[key] = (*keys.get(key, ()), name)
        return keys

    def pairs(self) -> Iterator[Pair]:
        """Yield the pairs of keys that the agent lists."""
        for interface in self.interfaces.values():
            if interface.key:
                for key in interface.views:
                    yield pair_of(interface.key, key)

    def is_up(self, interfaces: tuple[str, ...]) -> bool:
        """Return whether any of these interfaces is up."""
        return any(self.interfaces[name].is_up for name in interfaces)
