"""Builds typed values from parsed JSON: a dataclass from an object, a NamedTuple from a list (a row)."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from kattila_protocol.bounds import member_types, outside
from kattila_protocol.errors import Malformed

_Value = TypeVar("_Value")
_TYPE_NAMES = {str: "a string", int: "an integer", bool: "true or false", dict: "an object", list: "a list"}


def build(shape: type[_Value], members: dict[str, Any]) -> _Value:
    """Return a dataclass from the members of an object.

    An absent member takes its default, an unknown one is skipped.

    Raises:
        Malformed: a member without a default is absent, or a member has another type or is out of its bounds. The text
            names its path.
    """
    value: _Value = _build(shape, members, "")
    return value


def _build(hint: Any, value: object, path: str) -> Any:
    if hint in _TYPE_NAMES:
        return _checked(value, hint, path)
    if get_origin(hint) is Annotated:
        inner, bound = get_args(hint)
        built = _build(inner, value, path)
        if not bound.holds((built,)):
            raise Malformed(f"{path} is {outside(bound, built)}")
        return built
    if NoneType in get_args(hint):
        return None if value is None else _build(get_args(hint)[0], value, path)
    if is_dataclass(hint):
        return _object(hint, _checked(value, dict, path), f"{path}." if path else "")
    if get_origin(hint) is dict:
        names, items = get_args(hint)
        return {
            _build(names, name, path): _build(items, item, path) for name, item in _checked(value, dict, path).items()
        }
    return _list(hint, _checked(value, list, path), path)


def _object(shape: Any, members: dict[str, object], prefix: str) -> Any:
    for field in fields(shape):
        if field.default is MISSING and field.name not in members:
            raise Malformed(f"{prefix}{field.name} is missing")
    present = ((name, hint) for name, hint in member_types(shape).items() if name in members)
    return shape(**{name: _build(hint, members[name], prefix + name) for name, hint in present})


def _list(hint: Any, items: list[object], path: str) -> Any:
    row = hint if get_origin(hint) is None else None
    hints = tuple(member_types(row).values()) if row else get_args(hint)
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(items)
    if len(items) != len(hints):
        raise Malformed(f"{path} has {len(items)} items instead of {len(hints)}")
    built = [_build(hints[number], item, f"{path}[{number}]") for number, item in enumerate(items)]
    return row(*built) if row else tuple(built)


def _checked(value: object, kind: type, path: str) -> Any:
    # Not isinstance: True is an int as well.
    if type(value) is not kind:
        raise Malformed(f"{path} is not {_TYPE_NAMES[kind]}")
    return value
