"""How much of a long list is told, and how that is said. Pure.

May live here: sharing a limit, naming some of many. Not here: the limits (config).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kattila_protocol.report import Cut

_Item = TypeVar("_Item")
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Bounded(Generic[_Item]):
    """A list as it is told, what was cut from it, and why parts of it could not be read."""

    items: tuple[_Item, ...]
    cuts: tuple[Cut, ...] = ()
    failures: tuple[str, ...] = ()


def cut(what: str, kept: int, of: int | None, where: str = "") -> tuple[Cut, ...]:
    """Say that a list is not whole, if it is not; None stands for nobody knows how many."""
    return (Cut(what, kept, of, where),) if of is None or kept < of else ()


def shares(limit: int, counts: Sequence[int]) -> list[int]:
    """Share a limit among several lists: none gets less than an even part unless it has less."""
    granted = [0] * len(counts)
    for done, which in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
        granted[which] = min(counts[which], limit // (len(counts) - done))
        limit -= granted[which]
    return granted


def whole(sizes: Sequence[int], limit: int) -> list[int]:
    """Take the first groups that fit into a limit, none of them in part: unless none fits, then part of the first.

    Returns how much is taken of each.
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
    """Name the first of many interfaces, so that what is said of them stays within a reason's length."""
    named = ", ".join(names[:_NAMED])
    return named if len(names) <= _NAMED else f"{named} and {len(names) - _NAMED} more"
