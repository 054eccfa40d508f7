"""The bounds of signed values, declared in the types of their members, and the check of values against them. Pure.

A member is declared with one of the types below, as in `name: Name`. docs/PROTOCOL.md and the test vectors show every
bound, and a test fails for a member without one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, is_dataclass
from functools import cache, partial
from itertools import chain
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from kattila_protocol.canonical import MAX_INTEGER
from kattila_protocol.names import MAX_COUNTER

# The most entries of all lists of a report together. A node within the agent's default limits has fewer.
MAX_ENTRIES = 32_768
# A shorter report cannot have more: an entry has one byte at least, and a comma follows.
FULL_BYTES = 2 * MAX_ENTRIES

# To these the agent shortens what it reads, and limits its settings.
MAX_LINE = 255
MAX_REASON = 300
MAX_LABELS = 32

_Entry = TypeVar("_Entry")
# Returns the types of the members of a dataclass or a row, with their bounds.
member_types = cache(partial(get_type_hints, include_extras=True))


@dataclass(frozen=True, slots=True)
class Bound:
    """The least and the greatest integer; or length of a string in characters (Unicode code points), or of a list."""

    least: int
    greatest: int

    def holds(self, values: Iterable[Any]) -> bool:
        """Return whether all values of a member are within the bound."""
        numbers = [value if type(value) is int else len(value) for value in values]
        return not numbers or (self.least <= min(numbers) and max(numbers) <= self.greatest)


def most(length: int) -> Bound:
    """Return the bound of a string, list or object that may be empty."""
    return Bound(0, length)


def outside(bound: Bound, value: object) -> str:
    """Return what is wrong with a value that is out of bounds."""
    return f"not from {bound.least} to {bound.greatest}" if type(value) is int else f"longer than {bound.greatest}"


# --- Strings

Uuid = Annotated[str, most(36)]
Nonce = Annotated[str, most(32)]
# A word of this protocol, of the kernel or of iproute2, also if it stands for an unknown number. The members of
# uname(2) have 64 bytes at most.
Word = Annotated[str, most(64)]
# The name of an interface: 15 bytes (IFNAMSIZ). Those that are not UTF-8 have four characters each, as in \xff.
Name = Annotated[str, most(60)]
# The text of an IP address (INET6_ADDRSTRLEN), and of a prefix.
Address = Annotated[str, most(45)]
Prefix = Annotated[str, most(49)]
# 32 bytes (MAX_ADDR_LEN) in hex, separated by colons.
HardwareAddress = Annotated[str, most(95)]
PublicKey = Annotated[str, most(44)]
# An address in brackets, with a zone of up to 64 characters, and a port.
Endpoint = Annotated[str, most(118)]
# The longest name in DNS (RFC 1035, section 2.3.4); Linux allows 64 bytes.
HostName = Annotated[str, most(255)]
Line = Annotated[str, most(MAX_LINE)]
LabelName = Annotated[str, most(63)]
Labels = Annotated[dict[LabelName, Line], most(MAX_LABELS)]
Reason = Annotated[str, most(MAX_REASON)]
Detail = Annotated[str, most(2048)]

# --- Integers

U8 = Annotated[int, Bound(0, 2**8 - 1)]
U16 = Annotated[int, Bound(0, 2**16 - 1)]
U32 = Annotated[int, Bound(0, 2**32 - 1)]
S32 = Annotated[int, Bound(-(2**31), 2**31 - 1)]
# Counts and times of this protocol. Sums and differences of a thousand of them still fit into SQLite.
Counter = Annotated[int, Bound(0, MAX_COUNTER)]
Number = Annotated[int, Bound(1, MAX_COUNTER)]
# A report interval in seconds: at most a day.
Interval = Annotated[int, Bound(1, 86_400)]
Offset = Annotated[int, Bound(-MAX_COUNTER, MAX_COUNTER)]
# Counters and sizes of the kernel, which has 64 bits for them. No number above 2^63 - 1 fits into SQLite.
U63 = Annotated[int, Bound(0, MAX_INTEGER)]
S63 = Annotated[int, Bound(-MAX_INTEGER, MAX_INTEGER)]

# --- Lists

UpTo8 = Annotated[tuple[_Entry, ...], most(8)]
UpTo32 = Annotated[tuple[_Entry, ...], most(32)]
UpTo256 = Annotated[tuple[_Entry, ...], most(256)]
UpTo4096 = Annotated[tuple[_Entry, ...], most(4096)]
UpTo16384 = Annotated[tuple[_Entry, ...], most(16_384)]
UpTo32768 = Annotated[tuple[_Entry, ...], most(MAX_ENTRIES)]


# --- Checks


def is_shape(hint: Any) -> bool:
    """Return whether a type has named members: a dataclass, or a row (a NamedTuple)."""
    return is_dataclass(hint) or hasattr(hint, "_fields")


def fits(values: Collection[Any], hint: Any) -> bool:
    """Return whether all values of one type are within its bounds, including everything inside of them.

    It compares whole columns, which takes a fraction of the time of comparing thousands of rows one by one.
    """
    if NoneType in get_args(hint):
        return fits([value for value in values if value is not None], get_args(hint)[0])
    if get_origin(hint) is Annotated:
        hint, bound = get_args(hint)
        if not bound.holds(values):
            return False
    if get_origin(hint) is tuple:
        return fits([*chain.from_iterable(values)], get_args(hint)[0])
    if get_origin(hint) is dict:
        names, items = [*chain.from_iterable(values)], [item for value in values for item in value.values()]
        return fits(names, get_args(hint)[0]) and fits(items, get_args(hint)[1])
    members = member_types(hint) if values and is_shape(hint) else {}
    return all(fits([getattr(value, name) for value in values], inner) for name, inner in members.items())


def count_entries(values: Collection[Any], hint: Any) -> int:
    """Return how many entries all lists in values of one type have, at any depth. A list of a fixed length has none."""
    if NoneType in get_args(hint):
        return count_entries([value for value in values if value is not None], get_args(hint)[0])
    if get_origin(hint) is Annotated:
        return count_entries(values, get_args(hint)[0])
    if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis:
        return sum(map(len, values)) + count_entries([*chain.from_iterable(values)], get_args(hint)[0])
    members = member_types(hint) if values and is_shape(hint) else {}
    return sum(count_entries([getattr(value, name) for value in values], inner) for name, inner in members.items())
