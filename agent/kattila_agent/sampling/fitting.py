"""Cuts a report that is too large until it fits. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from kattila_agent.collectors.limits import cut, shares
from kattila_protocol import canonical
from kattila_protocol.bounds import FULL_BYTES, MAX_ENTRIES, count_entries, member_types
from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.report import Cut, Telemetry

# The body leaves this much to telemetry, next to the other members of DATA and three relays in the path.
MAX_TELEMETRY_BYTES = MAX_BODY_BYTES - 2048

# The lists that are shortened, each time the one that takes the most bytes. Others cannot grow that large, or are worth
# more.
_ROWS = (
    *("interfaces", "routes", "neighbours", "rules", "lookups", "tunnels", "policy_routes"),
    *("route_marks", "address_marks", "address_peers"),
)

# The most entries of these lists, which the protocol bounds.
_LONGEST: Mapping[str, int] = {
    name: get_args(member_types(Telemetry)[name])[1].greatest for name in (*_ROWS, "wireguard")
}

_ALLOWED_IPS = "allowed_ips"
# With more cuts of one kind than this, only their sum is reported. A cut for each of thousands of peers would fill a
# report.
_MOST_CUTS = 16

# How many AllowedIPs a peer has, by interface and public key.
_CountByPeer = Mapping[tuple[str, str], int]


class TooMuchError(Exception):
    """The report is too large even without everything that can be left out."""


def encode(telemetry: Telemetry, allowed_ips: _CountByPeer, max_bytes: int = MAX_TELEMETRY_BYTES) -> bytes:
    """Return the telemetry as canonical JSON of at most `max_bytes`, with lists shortened and their cuts added.

    The lists are within the bounds of the protocol, each of them and all together.

    `allowed_ips` is as in a Measurement.

    Raises:
        TooMuchError: it cannot be made to fit.
    """
    counts = {
        (interface.name, peer.public_key): len(peer.allowed_ips)
        for interface in telemetry.wireguard
        for peer in interface.peers
    } | dict(allowed_ips)
    for name, longest in _LONGEST.items():
        if (count := len(getattr(telemetry, name))) > longest:
            rows = _row_list(telemetry, name)
            telemetry = rows.keep(longest - (count - rows.entries))
    while True:
        complete = _with_all_cuts(telemetry, counts)
        encoded = canonical.encode(complete, omit_defaults=True)
        size, entries = len(encoded), count_entries([complete], Telemetry) if len(encoded) > FULL_BYTES else 0
        if size <= max_bytes and entries <= MAX_ENTRIES:
            return encoded
        # Entries beyond their bound count with their average size. A little more, for the cuts to be added.
        excess = max(size - max_bytes, size * (entries - MAX_ENTRIES) // max(1, entries)) + 1024
        shorter = _shortened(telemetry, excess)
        if shorter is None:
            raise TooMuchError(f"a report of {size} bytes cannot be cut to {max_bytes}")
        telemetry = shorter


@dataclass(frozen=True, slots=True)
class _List:
    """A list that can be shortened: its entries and bytes, and a function that keeps the first entries."""

    entries: int
    bytes: int
    keep: Callable[[int], Telemetry]


def _shortened(telemetry: Telemetry, excess: int) -> Telemetry | None:
    """Take about `excess` bytes from the largest list, at most three quarters of it; return None if all are empty."""
    lists = [each for each in _lists(telemetry) if each.entries]
    if not lists:
        return None
    largest = max(lists, key=lambda each: each.bytes)
    enough = largest.entries - largest.entries * excess // largest.bytes - 1
    return largest.keep(max(enough, largest.entries // 4))


def _lists(telemetry: Telemetry) -> list[_List]:
    peers = [peer for interface in telemetry.wireguard for peer in interface.peers]
    allowed_ips = [peer.allowed_ips for peer in peers]
    count = sum(map(len, allowed_ips))
    bytes_of_allowed_ips = len(canonical.encode(allowed_ips))
    bytes_of_peers = len(canonical.encode(peers)) - bytes_of_allowed_ips
    return [
        *(_row_list(telemetry, name) for name in _ROWS),
        _List(count, bytes_of_allowed_ips, lambda kept: _with_peers(telemetry, len(peers), kept)),
        _List(len(peers), bytes_of_peers, lambda kept: _with_peers(telemetry, kept, count)),
    ]


def _row_list(telemetry: Telemetry, name: str) -> _List:
    rows = getattr(telemetry, name)

    # Without its default route a node looks as if it had no Internet, so default routes go last.
    spared = [name == "routes" and row.destination.endswith("/0") for row in rows]
    if all(spared):
        spared = [False] * len(rows)

    def keep(kept: int) -> Telemetry:
        left = tuple(row for at, (row, stays) in enumerate(zip(rows, spared, strict=True)) if at < kept or stays)
        left = left[: _LONGEST[name]]
        cuts = _with_cuts(telemetry, [Cut(name, len(left), len(rows))])
        members: dict[str, Any] = {name: left, "cuts": cuts}
        if name == "neighbours":
            members["neighbours_confirmed"] = telemetry.neighbours_confirmed[: len(left)]
        return replace(telemetry, **members)

    return _List(spared.count(False), len(canonical.encode(rows)), keep)


def _with_peers(telemetry: Telemetry, max_peers: int, max_allowed_ips: int) -> Telemetry:
    """Keep at most this many peers and AllowedIPs of all interfaces together."""
    granted = shares(max_peers, [len(each.peers) for each in telemetry.wireguard])
    kept = [each.peers[:most] for each, most in zip(telemetry.wireguard, granted, strict=True)]
    allowed_ips = iter(shares(max_allowed_ips, [len(peer.allowed_ips) for peers in kept for peer in peers]))
    interfaces = tuple(
        replace(each, peers=tuple(peer._replace(allowed_ips=peer.allowed_ips[: next(allowed_ips)]) for peer in peers))
        for each, peers in zip(telemetry.wireguard, kept, strict=True)
    )
    cuts = [
        each
        for interface, peers in zip(telemetry.wireguard, kept, strict=True)
        for each in cut("peers", len(peers), len(interface.peers), interface.name)
    ]
    return replace(telemetry, wireguard=interfaces, cuts=_with_cuts(telemetry, cuts))


def _with_cuts(telemetry: Telemetry, more: Sequence[Cut]) -> tuple[Cut, ...]:
    """Add cuts; the cut of a list that was cut before is updated, and keeps its first `of`."""
    cuts = {(each.what, each.where): each for each in telemetry.cuts}
    for each in more:
        before = cuts.get((each.what, each.where))
        cuts[each.what, each.where] = each if before is None else replace(before, kept=each.kept)
    return tuple(cuts.values())


def _with_all_cuts(telemetry: Telemetry, allowed_ips: _CountByPeer) -> Telemetry:
    """Replace the cuts of AllowedIPs by those of the peers that are left, and sum up cuts that are too many."""
    cuts = [each for each in telemetry.cuts if each.what != _ALLOWED_IPS]
    for interface in telemetry.wireguard:
        for peer in interface.peers:
            of = allowed_ips[interface.name, peer.public_key]
            cuts += cut(_ALLOWED_IPS, len(peer.allowed_ips), of, peer.public_key)
    merged = _merged(cuts)
    counted = Counter(each.what for each in merged)
    return replace(
        telemetry,
        cuts=_merged(replace(each, where="") if counted[each.what] > _MOST_CUTS else each for each in merged),
    )


def _merged(cuts: Iterable[Cut]) -> tuple[Cut, ...]:
    """Return one cut for each `what` and `where`, with the sums."""
    found: dict[tuple[str, str], Cut] = {}
    for each in cuts:
        before = found.get((each.what, each.where), Cut(each.what, 0, 0, each.where))
        of = None if before.of is None or each.of is None else before.of + each.of
        found[each.what, each.where] = replace(each, kept=before.kept + each.kept, of=of)
    return tuple(found.values())
