"""Shares a limit among lists, and says what was cut from them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from kattila_protocol.report import Cut

_Item = TypeVar("_Item")
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Bounded(Generic[_Item]):
    """A list as reported, its cuts, and why parts of it could not be read.

    `allowed_ips` counts the AllowedIPs of each peer of which not all are reported, by interface and public key.
    `marks` are further members of Telemetry: rows about the items.
    """

    items: tuple[_Item, ...]
    cuts: tuple[Cut, ...] = ()
    failures: tuple[str, ...] = ()
    allowed_ips: Mapping[tuple[str, str], int] = field(default_factory=dict)
    marks: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def cut(what: str, kept: int, of: int | None, where: str = "") -> tuple[Cut, ...]:
    """Return the cut of a list, or nothing if the list is complete; `of` is None if its length is unknown."""
    return (Cut(what, kept, of, where),) if of is None or kept < of else ()


def shares(limit: int, counts: Sequence[int]) -> list[int]:
    """Return how many entries each list may keep: an equal share of the limit, or more if others need less."""
    granted = [0] * len(counts)
    for done, which in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
        granted[which] = min(counts[which], limit // (len(counts) - done))
        limit -= granted[which]
    return granted


def whole(sizes: Sequence[int], limit: int) -> list[int]:
    """Return how many entries of each group to keep: the first groups that fit into the limit, each complete.

    If no group fits, part of the first is kept.
    """
    taken = [0] * len(sizes)
    left = limit
    for which, size in enumerate(sizes):
        if size <= left:
            taken[which] = size
            left -= size
    if left == limit and any(sizes):
        taken[next(which for which, size in enumerate(sizes) if size)] = limit
    return taken


def some(names: Sequence[str]) -> str:
    """Name the first four interfaces and count the others, for the reason of a failure."""
    named = ", ".join(names[:_NAMED])
    return named if len(names) <= _NAMED else f"{named} and {len(names) - _NAMED} more"
