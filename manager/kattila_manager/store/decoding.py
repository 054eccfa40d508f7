"""Parses DATA into a report, with msgspec.

msgspec checks bounds while it parses, but only those in its own types. So there are two decoders: one for a copy of
the report's types with such bounds, and one for the types themselves.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import GenericAlias, NoneType
from typing import Annotated, Any, get_args, get_origin

import msgspec

from kattila_protocol import canonical
from kattila_protocol.bounds import is_shape, member_types
from kattila_protocol.errors import Malformed
from kattila_protocol.report import Report


def decode(data: bytes) -> Report:
    """Return the report; raises Malformed.

    DATA that encodes to itself has no duplicate members. Any other, such as from a newer agent with unknown members,
    is also parsed strictly.
    """
    if not data.isascii():
        raise Malformed("the object is not ASCII: write other characters as \\uXXXX")
    try:
        bounded = _BOUNDED.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(str(error)) from error
    if _ENCODER.encode(bounded) != data:
        canonical.parse_object(data)
    return _DECODER.decode(data).check(len(data))


def _bounded(hint: Any) -> Any:
    """Return the type that msgspec reads like `hint`, with the same bounds as its own."""
    if NoneType in get_args(hint):
        return _bounded(get_args(hint)[0]) | None
    if get_origin(hint) is Annotated:
        inner, bound = get_args(hint)
        least, greatest = bound.least, bound.greatest
        meta = msgspec.Meta(ge=least, le=greatest) if inner is int else msgspec.Meta(max_length=greatest)
        return Annotated[_bounded(inner), meta]
    if is_shape(hint):
        return _bounded_shape(hint)
    if (origin := get_origin(hint)) is not None:
        return origin[tuple(inner if inner is Ellipsis else _bounded(inner) for inner in get_args(hint))]
    return hint


@cache
def _bounded_shape(shape: type) -> Any:
    members = {name: _bounded(hint) for name, hint in member_types(shape).items()}
    if not is_dataclass(shape):
        # A row: in JSON a list with exactly these columns.
        return GenericAlias(tuple, tuple(members.values()))
    defaults = {field.name: field.default for field in fields(shape) if field.default is not MISSING}
    described = [(name, hint, defaults[name]) if name in defaults else (name, hint) for name, hint in members.items()]
    return msgspec.defstruct(shape.__name__, described, frozen=True, omit_defaults=True)


_BOUNDED = msgspec.json.Decoder(_bounded(Report))
_DECODER = msgspec.json.Decoder(Report)
_ENCODER = msgspec.json.Encoder()
