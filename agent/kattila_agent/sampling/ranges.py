"""Leaves out of a report what is beyond the bounds of the protocol. Pure.

Collectors check what they know about their sources. This catches everything else: the manager refuses every report
that is out of bounds, so a single faulty driver would silence the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from kattila_protocol.bounds import fits, is_shape, member_types, outside
from kattila_protocol.report import Telemetry

_LEFT_OUT = object()


def in_bounds(members: Mapping[str, Any], unknown: Telemetry) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return members of Telemetry without entries that are out of bounds, and a failure that counts these entries.

    A value that is not a list becomes that of `unknown`. The length of a member stays as it is, see `fitting.encode`.
    """
    left_out: list[str] = []
    found = {}
    for name, value in members.items():
        hint = member_types(Telemetry)[name]
        hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        kept = value if fits([value], hint) else _kept(value, hint, name, left_out)
        found[name] = getattr(unknown, name) if kept is _LEFT_OUT else kept
    return found, (f"{len(left_out)} left out, the first because {left_out[0]}",) if left_out else ()


def _kept(value: Any, hint: Any, name: str, left_out: list[str]) -> Any:
    """Return a value without the entries that are out of bounds, _LEFT_OUT if there is none; add the reasons."""
    if NoneType in get_args(hint):
        return None if value is None else _kept(value, get_args(hint)[0], name, left_out)
    if get_origin(hint) is Annotated:
        inner, bound = get_args(hint)
        return _within(_kept(value, inner, name, left_out), bound, name, left_out)
    if get_origin(hint) is tuple:
        entries = [_kept(entry, get_args(hint)[0], name, left_out) for entry in value]
        kept = tuple(entry for entry in entries if entry is not _LEFT_OUT)
        return kept if len(kept) == len(value) or get_args(hint)[-1] is Ellipsis else _LEFT_OUT
    if get_origin(hint) is dict:
        pairs = [
            [_kept(*each, name, left_out) for each in zip(pair, get_args(hint), strict=True)] for pair in value.items()
        ]
        return {key: item for key, item in pairs if key is not _LEFT_OUT and item is not _LEFT_OUT}
    if not is_shape(hint):
        return value
    members = {each: _kept(getattr(value, each), inner, each, left_out) for each, inner in member_types(hint).items()}
    return _LEFT_OUT if _LEFT_OUT in members.values() else hint(**members)


def _within(value: Any, bound: Any, name: str, left_out: list[str]) -> Any:
    if value is _LEFT_OUT or bound.holds((value,)):
        return value
    left_out.append(f"{name} is {outside(bound, value)}")
    return value[: bound.greatest] if type(value) is tuple else _LEFT_OUT
