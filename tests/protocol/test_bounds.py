"""Every string, list and integer that is signed has a bound, and values are compared with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import pytest

from kattila_protocol import canonical, peer, registration, report, reset, verdict
from kattila_protocol.bounds import (
    FULL_BYTES,
    MAX_ENTRIES,
    Bound,
    count_entries,
    fits,
    is_shape,
    member_types,
    most,
)
from kattila_protocol.report import Telemetry
from protocol.samples import REPORT
from vectors import bounds

SHAPES = [
    value
    for module in (report, registration, verdict, peer, reset)
    for value in vars(module).values()
    if isinstance(value, type) and is_shape(value) and value.__module__ == module.__name__
]


def unbounded(hint: Any, path: str) -> Iterator[str]:
    """Yield the paths of strings, lists and integers without a bound."""
    is_bounded = get_origin(hint) is Annotated and isinstance(get_args(hint)[1], Bound)
    inner = get_args(hint)[0] if is_bounded else hint
    is_list = get_origin(inner) is dict or get_args(inner)[-1:] == (Ellipsis,)
    if not is_bounded and (inner in (str, int) or is_list):
        yield path
    for number, part in enumerate(each for each in get_args(inner) if each not in (Ellipsis, NoneType)):
        yield from unbounded(part, f"{path}[{number}]")


@pytest.mark.parametrize("shape", SHAPES)
def test_every_string_list_and_integer_has_a_bound(shape: type) -> None:
    types = member_types(shape)
    assert types
    assert [path for name, hint in types.items() for path in unbounded(hint, name)] == []


def test_members_without_bounds_are_found() -> None:
    hints = (
        str,
        int,
        tuple[str, ...],
        Annotated[tuple[str, ...], most(1)],
        str | None,
        dict[str, str],
        tuple[int, int],
    )
    assert [list(unbounded(hint, "")) != [] for hint in hints] == [True] * len(hints)


def test_no_bound_of_a_report_is_beyond_what_sqlite_can_hold() -> None:
    found = [hint for shape in SHAPES for hint in member_types(shape).values() if get_origin(hint) is Annotated]
    integers = [get_args(hint)[1] for hint in found if get_args(hint)[0] is int]
    assert integers
    assert all(-(2**63) <= bound.least < bound.greatest < 2**63 for bound in integers)


def test_the_sample_report_fits() -> None:
    assert fits([REPORT], report.Report)
    assert fits([], report.Report)


# `fits` compares values, the vectors are JSON: a change of one member is enough to compare them.
@pytest.mark.parametrize("result", ["well-formed", "malformed"])
def test_values_are_compared_like_messages(result: str) -> None:
    changed = [change for case in bounds.cases() if case["result"] == result for change in simple_changes(case)]
    assert len(changed) > 100
    for value, hint in changed:
        assert fits([value], hint) == (result == "well-formed"), (value, hint)


def simple_changes(case: bounds.Case) -> Iterator[tuple[Any, Any]]:
    """Yield the new value of a member, and the type of the member, unless it is a list."""
    for change in case["changes"]:
        if "value" not in change or not isinstance(change["value"], str | int):
            continue
        hint: Any = type(bounds.BASES[case["message"]])
        for name in change["path"]:
            hint = step(hint, name)
        yield change["value"], hint


def step(hint: Any, name: str | int) -> Any:
    while not is_shape(hint) and get_origin(hint) is not tuple:
        hint = get_args(hint)[0]
    if get_origin(hint) is tuple:
        return get_args(hint)[0]
    types = member_types(hint)
    return types[str(name)] if is_dataclass(hint) else list(types.values())[int(name)]


def test_entries_are_counted_at_any_depth() -> None:
    one = replace(Telemetry(None), interfaces=REPORT.telemetry.interfaces[:1])
    # The interface, its three flags and its address.
    assert count_entries([one], Telemetry) == 5
    assert count_entries([Telemetry(None), one, one], Telemetry) == 10
    # An object's members and the columns of rows and of `load` do not count.
    assert count_entries([Telemetry(REPORT.telemetry.system, routes=REPORT.telemetry.routes)], Telemetry) == 1


def test_no_short_report_can_have_too_many_entries() -> None:
    peer_row = REPORT.telemetry.wireguard[0].peers[0]
    tunnel = replace(REPORT.telemetry.wireguard[0], peers=(peer_row._replace(allowed_ips=("",) * MAX_ENTRIES),))
    shortest = Telemetry(None, wireguard=(tunnel,))
    assert count_entries([shortest], Telemetry) == MAX_ENTRIES + 2
    assert len(canonical.encode(shortest)) > FULL_BYTES
