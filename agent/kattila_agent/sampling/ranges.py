"""Leaves numbers out of a report that the protocol cannot express. Pure.

Collectors check what they know about their sources. This catches all other numbers: the manager refuses every report
that contains one, so a single faulty driver would silence the node.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from kattila_agent.collectors.limits import Bounded
from kattila_protocol import canonical
from kattila_protocol.canonical import MAX_INTEGER


def in_range(result: Bounded[Any], unknown: Any) -> Bounded[Any]:
    """Return the result without entries that contain a number beyond 64 bits, and with a failure that counts them.

    A result that is not a list becomes `unknown`.
    """
    items: Any = result.items
    # Encoding is much faster than checking each number, which few results need.
    if not canonical.has_long_number(canonical.encode(items)) or _fits(items):
        return result
    kept = tuple(filter(_fits, items)) if type(items) is tuple else unknown
    which = f"{len(items) - len(kept)} of {len(items)} entries" if type(items) is tuple else "the value"
    return replace(result, items=kept, failures=(*result.failures, f"{which} left out: a number is out of range"))


def _fits(value: object) -> bool:
    """Return whether a report may contain every integer in a value."""
    if isinstance(value, tuple):
        return all(map(_fits, value))
    if is_dataclass(value):
        return all(_fits(getattr(value, each.name)) for each in fields(value))
    return type(value) is not int or -MAX_INTEGER <= value <= MAX_INTEGER
