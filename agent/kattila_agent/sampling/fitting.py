"""A report that is too large, cut until it fits. Pure.

May live here: which list is shortened, and that the report says so. Not here: the limits of each list, which keep most
reports from coming here at all (collectors).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kattila_agent.collectors.bounds import Bounded, cut, shares
from kattila_protocol import canonical
from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.report import Cut, Telemetry, WireguardInterface, WireguardPeer

# What is left of a body for telemetry, with DATA's other members and three relays in the path.
MAX_TELEMETRY_BYTES = MAX_BODY_BYTES - 2048

# Shortened in turns, the one that takes most bytes first. The others cannot grow that much, or are worth more.
_ROWS = ("interfaces", "routes", "neighbours", "rules", "lookups", "tunnels", "policy_routes")

_ALLOWED_IPS = "allowed_ips"
# Of more parts of one list a sum tells enough: with a cut for each of thousands of peers nothing else had room.
_MOST_CUTS = 16

# By interface and public key.
_CountByPeer = Mapping[tuple[str, str], int | None]


class TooMuchError(Exception):
    """What cannot be left out of a report is more than a report may hold."""


def encode(telemetry: Telemetry, max_bytes: int) -> bytes:
    """Return telemetry, encoded, of at most so many bytes; what had to be shortened for that is told in its cuts.

    Raises:
        TooMuchError: it cannot be made to fit.
    """
    there, cuts = _allowed_ips(telemetry)
    telemetry = replace(telemetry, cuts=cuts)
    while len(encoded := canonical.encode(_with_told_cuts(telemetry, there))) > max_bytes:
        # A little more than needed, for the cuts that say so.
        shorter = _shortened(telemetry, len(encoded) - max_bytes + 1024)
        if shorter is None:
            raise TooMuchError(f"a report of {len(encoded)} bytes cannot be cut to {max_bytes}")
        telemetry = shorter
    return encoded


@dataclass(frozen=True, slots=True)
class _List:
    """A list that can be shortened: how many entries and bytes it has, and how to keep only some of them."""

    entries: int
    bytes: int
    keep: Callable[[int], Telemetry]


def _shortened(telemetry: Telemetry, excess: int) -> Telemetry | None:
    """Take about `excess` bytes from the largest list, at most three quarters of it; None if nothing is left."""
    lists = [each for each in _lists(telemetry) if each.entries]
    if not lists:
        return None
    largest = max(lists, key=lambda each: each.bytes)
    enough = largest.entries - largest.entries * excess // largest.bytes - 1
    return largest.keep(max(enough, largest.entries // 4))


def _lists(telemetry: Telemetry) -> list[_List]:
    peers = [peer for interface in telemetry.wireguard for peer in interface.peers]
    allowed_ips = [peer.allowed_ips for peer in peers]
    bytes_of_allowed_ips = len(canonical.encode(allowed_ips))
    return [
        *(_row_list(telemetry, name) for name in _ROWS),
        _List(
            sum(map(len, allowed_ips)), bytes_of_allowed_ips, lambda kept: _with_wireguard(telemetry, len(peers), kept)
        ),
        _List(
            len(peers),
            len(canonical.encode(peers)) - bytes_of_allowed_ips,
            lambda kept: _with_wireguard(telemetry, kept, sum(map(len, allowed_ips))),
        ),
    ]


def _row_list(telemetry: Telemetry, name: str) -> _List:
    rows = getattr(telemetry, name)

    # A node without its default route looks like one without the Internet: they go when no others are left.
    spared = [name == "routes" and _is_default(row) for row in rows]
    if all(spared):
        spared = [False] * len(rows)

    def keep(kept: int) -> Telemetry:
        left = tuple(row for at, (row, stays) in enumerate(zip(rows, spared, strict=True)) if at < kept or stays)
        cuts = _with_cuts(telemetry, [Cut(name, len(left), len(rows))])
        members: dict[str, Any] = {name: left, "cuts": cuts}
        return replace(telemetry, **members)

    return _List(spared.count(False), len(canonical.encode(rows)), keep)


def _is_default(route: Any) -> bool:
    return bool(route.destination.endswith("/0"))


def _with_wireguard(telemetry: Telemetry, max_peers: int, max_allowed_ips: int) -> Telemetry:
    bounded = _bounded_wireguard(telemetry.wireguard, max_peers, max_allowed_ips)
    return replace(telemetry, wireguard=bounded.items, cuts=_with_cuts(telemetry, bounded.cuts))


def _bounded_wireguard(
    interfaces: tuple[WireguardInterface, ...], max_peers: int, max_allowed_ips: int
) -> Bounded[WireguardInterface]:
    """Cut peers and AllowedIPs, each limit over all interfaces together; what is told of is in the reader's order."""
    cuts: list[Cut] = []
    shortened = []
    for interface, kept in zip(interfaces, shares(max_peers, [len(each.peers) for each in interfaces]), strict=True):
        cuts += cut("peers", kept, len(interface.peers), interface.name)
        shortened.append(replace(interface, peers=interface.peers[:kept]))
    counts = [len(peer.allowed_ips) for interface in shortened for peer in interface.peers]
    granted = iter(shares(max_allowed_ips, counts))
    told = tuple(replace(each, peers=tuple(_peer(p, next(granted)) for p in each.peers)) for each in shortened)
    return Bounded(told, tuple(cuts))


def _peer(peer: WireguardPeer, kept: int) -> WireguardPeer:
    return peer._replace(allowed_ips=peer.allowed_ips[:kept])


def _with_cuts(telemetry: Telemetry, more: Sequence[Cut]) -> tuple[Cut, ...]:
    """Add cuts; one of a list that was cut before takes its place, and still counts what there was at first."""
    cuts = {(each.what, each.where): each for each in telemetry.cuts}
    for each in more:
        before = cuts.get((each.what, each.where))
        cuts[each.what, each.where] = each if before is None else replace(before, kept=each.kept)
    return tuple(cuts.values())


def _allowed_ips(telemetry: Telemetry) -> tuple[_CountByPeer, tuple[Cut, ...]]:
    """Return how many AllowedIPs each peer has on its interface, and the cuts of all other lists."""
    said = deque(each for each in telemetry.cuts if each.what == _ALLOWED_IPS)
    there: dict[tuple[str, str], int | None] = {}
    for interface in telemetry.wireguard:
        for peer in interface.peers:
            told = len(peer.allowed_ips)
            # A cut does not name the interface, but they come in the order of the peers.
            is_next = bool(said) and (said[0].where, said[0].kept) == (peer.public_key, told)
            there[interface.name, peer.public_key] = said.popleft().of if is_next else told
    return there, (*(each for each in telemetry.cuts if each.what != _ALLOWED_IPS), *said)


def _with_told_cuts(telemetry: Telemetry, there: _CountByPeer) -> Telemetry:
    """Add the cuts of AllowedIPs, of peers that are told only, and sum up what is too much to be told one by one."""
    cuts = [*telemetry.cuts]
    for interface in telemetry.wireguard:
        for peer in interface.peers:
            of = there[interface.name, peer.public_key]
            cuts += cut(_ALLOWED_IPS, len(peer.allowed_ips), of, peer.public_key)
    summed = _summed(cuts)
    counted = Counter(each.what for each in summed)
    return replace(
        telemetry,
        cuts=_summed(replace(each, where="") if counted[each.what] > _MOST_CUTS else each for each in summed),
    )


def _summed(cuts: Iterable[Cut]) -> tuple[Cut, ...]:
    """Make one of those that say the same `what` and `where`."""
    found: dict[tuple[str, str], Cut] = {}
    for each in cuts:
        before = found.get((each.what, each.where), Cut(each.what, 0, 0, each.where))
        of = None if before.of is None or each.of is None else before.of + each.of
        found[each.what, each.where] = replace(each, kept=before.kept + each.kept, of=of)
    return tuple(found.values())
