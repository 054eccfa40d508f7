"""A JSON object, already parsed, to the value whose types its members must have.

May live here: which JSON fits which type: dataclasses are objects, NamedTuples rows. Not here: bounds on what is said.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from kattila_protocol.errors import Malformed

_Value = TypeVar("_Value")
_hints = cache(get_type_hints)
_SHOWN = {str: "a string", int: "an integer", bool: "true or false", dict: "an object", list: "a list"}


def build(shape: type[_Value], members: dict[str, Any]) -> _Value:
    """Return the dataclass that an object says; an absent member has its default, an unknown one is skipped.

    Raises:
        Malformed: one without a default is absent, or one has another type; it is named by its path.
    """
    value: _Value = _read(shape, members, "")
    return value


def _read(hint: Any, given: object, path: str) -> Any:
    if hint in _SHOWN:
        return _checked(given, hint, path)
    if NoneType in get_args(hint):
        return None if given is None else _read(get_args(hint)[0], given, path)
    if is_dataclass(hint):
        return _object(hint, _checked(given, dict, path), f"{path}." if path else "")
    if get_origin(hint) is dict:
        return {name: _read(get_args(hint)[1], item, path) for name, item in _checked(given, dict, path).items()}
    return _list(hint, _checked(given, list, path), path)


def _object(shape: Any, given: dict[str, object], prefix: str) -> Any:
    for field in fields(shape):
        if field.default is MISSING and field.name not in given:
            raise Malformed(f"{prefix}{field.name} is missing")
    present = ((name, hint) for name, hint in _hints(shape).items() if name in given)
    return shape(**{name: _read(hint, given[name], prefix + name) for name, hint in present})


def _list(hint: Any, given: list[object], path: str) -> Any:
    row = hint if get_origin(hint) is None else None
    hints = tuple(_hints(row).values()) if row else get_args(hint)
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(given)
    if len(given) != len(hints):
        raise Malformed(f"{path} has {len(given)} items instead of {len(hints)}")
    items = [_read(hints[number], item, f"{path}[{number}]") for number, item in enumerate(given)]
    return row(*items) if row else tuple(items)


def _checked(given: object, kind: type, path: str) -> Any:
    # Its very type: True is an int as well.
    if type(given) is not kind:
        raise Malformed(f"{path} is not {_SHOWN[kind]}")
    return given
