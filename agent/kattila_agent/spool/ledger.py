"""The spool's record of dropped samples and of an unfinished change, as a value and as text. Pure.

It is written before the files are changed, so that a process that finds it after a kill can complete the change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kattila_protocol import canonical
from kattila_protocol.errors import Malformed
from kattila_protocol.names import checked_counter

VERSION = 1


@dataclass(frozen=True, slots=True)
class Renumbering:
    """The samples of a boot with numbers below `first` get new numbers, from there on."""

    boot_id: str
    first: int


@dataclass(frozen=True, slots=True)
class Ledger:
    """`dropped` samples were dropped so far.

    The files of `dropping` are included, and may still exist.
    """

    dropped: int = 0
    dropping: tuple[int, ...] = ()
    renumbering: Renumbering | None = None


def encode(ledger: Ledger) -> bytes:
    """Return the text of the ledger's file."""
    members = {
        "version": VERSION,
        "dropped": ledger.dropped,
        "dropping": ledger.dropping,
        "renumbering": ledger.renumbering,
    }
    return canonical.encode(members) + b"\n"


def parse(text: bytes) -> Ledger:
    """Return the ledger in a text; raises ValueError."""
    try:
        members = canonical.parse_object(text)
        if members["version"] != VERSION:
            raise ValueError(f"version {members['version']!r}")
        return Ledger(
            checked_counter(members["dropped"], "dropped"),
            tuple(checked_counter(number, "dropping") for number in members["dropping"]),
            _renumbering(members["renumbering"]),
        )
    except (Malformed, KeyError, TypeError) as error:
        raise ValueError(f"not a ledger: {error}") from error


def _renumbering(members: dict[str, Any] | None) -> Renumbering | None:
    if members is None:
        return None
    return Renumbering(str(members["boot_id"]), checked_counter(members["first"], "first", minimum=1))
