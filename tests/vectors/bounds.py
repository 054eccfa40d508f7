"""The test vectors of bounds: for each bound of a member, a value at the bound and one beyond it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import MISSING, fields, is_dataclass, replace
from itertools import chain
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from kattila_protocol import canonical
from kattila_protocol.bounds import MAX_ENTRIES, Bound, Nonce, Uuid, count_entries, is_shape, member_types
from kattila_protocol.peer import PeerAnswer
from kattila_protocol.registration import Registration
from kattila_protocol.report import Telemetry
from kattila_protocol.verdict import Verdict
from protocol.samples import AGENT, BOOT, NONCE, NOW, REPORT

Case = dict[str, Any]
Path = tuple[str | int, ...]

_ANSWER = PeerAnswer(AGENT, "", 0, None, REPORT.telemetry.interfaces, REPORT.telemetry.routes, NONCE)
BASES: dict[str, object] = {
    "report": REPORT,
    "register": Registration(AGENT, BOOT, "a.example.org", ("00:00:5e:00:53:01",), NONCE, NOW),
    "verdict": Verdict("accepted", AGENT, NONCE, NOW, 0),
    "peer": _ANSWER,
}
_ACCEPTED, _REFUSED = "well-formed", "malformed"
# How long a list may be that has one entry in the sample, before the bound of all lists is reached.
_ROOM = MAX_ENTRIES - count_entries([REPORT.telemetry], Telemetry) + 1
# These have one spelling, so another length is refused anyway.
_SPELLED = (Uuid, Nonce)


def cases() -> list[Case]:
    """Return all cases: the message, the changes to make to its members, and the result.

    The first case of a message has these members and makes no change.
    """
    whole = [_case(message, _ACCEPTED) | {"members": members_of(message)} for message in BASES]
    found = (_of_shape(message, type(base), members_of(message), ()) for message, base in BASES.items())
    return [*whole, *chain.from_iterable(found), *_all_lists(), *_characters()]


def members_of(message: str) -> dict[str, Any]:
    """Return the members that the cases of a message change."""
    members: dict[str, Any] = json.loads(canonical.encode(BASES[message]))
    return members


def changed(case: Case) -> dict[str, Any]:
    """Return the members of a case's message after its changes."""
    members = deepcopy(members_of(case["message"]))
    for change in case["changes"]:
        *path, last = change["path"]
        at: Any = members
        for name in path:
            at = at[name]
        at[last] = change["value"] if "value" in change else [change["entry"]] * change["times"]
    return members


def _of_shape(message: str, shape: Any, value: Any, path: Path) -> Iterator[Case]:
    for number, (name, hint) in enumerate(member_types(shape).items()):
        place = name if is_dataclass(shape) else number
        if (shape, name) == (Registration, "to"):
            # Any value but one is refused for another reason.
            continue
        yield from _of_member(message, hint, value[place], (*path, place))


def _of_member(message: str, hint: Any, value: Any, path: Path) -> Iterator[Case]:
    inner = get_args(hint)[0] if get_args(hint) else None
    if NoneType in get_args(hint):
        yield from _of_member(message, inner, value, path)
    elif get_origin(hint) is Annotated and hint not in _SPELLED:
        yield from _pairs(message, path, *get_args(hint))
        yield from _of_member(message, inner, value, path)
    elif is_shape(hint) and message == "report":
        yield from _of_shape(message, hint, value, path)
    elif get_origin(hint) is tuple and value and not isinstance(value[0], str):
        yield from _of_member(message, inner, value[0], (*path, 0))
    elif get_origin(hint) is tuple and get_origin(inner) is Annotated:
        yield from _pairs(message, path, *get_args(inner), times=1)


def _pairs(message: str, path: Path, hint: Any, bound: Any, **more: int) -> Iterator[Case]:
    """Yield the cases for the values of a member, or for those of the one entry of a list."""
    for values in _values(hint, bound):
        for result, value in zip((_ACCEPTED, _REFUSED), values, strict=True):
            change = {"entry": value["value"], **more} if more else value
            yield _case(message, result, {"path": path, **change})


def _values(hint: Any, bound: Bound) -> Iterator[tuple[Case, Case]]:
    """Yield pairs: how to set a value at a bound, and a value beyond it."""
    if hint is int:
        yield {"value": bound.least}, {"value": bound.least - 1}
        yield {"value": bound.greatest}, {"value": bound.greatest + 1}
    elif hint is str:
        yield {"value": "x" * bound.greatest}, {"value": "x" * (bound.greatest + 1)}
    elif get_origin(hint) is dict:
        names, items = (get_args(part)[1].greatest for part in get_args(hint))
        numbered = [
            {"value": {str(number): "" for number in range(count)}} for count in (bound.greatest, bound.greatest + 1)
        ]
        yield numbered[0], numbered[1]
        yield {"value": {"x" * names: ""}}, {"value": {"x" * (names + 1): ""}}
        yield {"value": {"": "x" * items}}, {"value": {"": "x" * (items + 1)}}
    else:
        entry, times = least(get_args(hint)[0]), min(bound.greatest, _ROOM)
        yield {"entry": entry, "times": times}, {"entry": entry, "times": times + 1}


def least(hint: Any) -> Any:
    """Return the shortest JSON value of a type."""
    if NoneType in get_args(hint):
        return None
    if get_origin(hint) is Annotated:
        inner, bound = get_args(hint)
        return max(0, bound.least) if inner is int else least(inner)
    if get_origin(hint) is tuple:
        return []
    if not is_shape(hint):
        return hint()
    types = member_types(hint)
    if not is_dataclass(hint):
        return [least(inner) for inner in types.values()]
    return {field.name: least(types[field.name]) for field in fields(hint) if field.default is MISSING}


def _all_lists() -> Iterator[Case]:
    """Yield a report with as many entries as all its lists together may have, and one with an entry more."""
    types, most = member_types(Telemetry), 16_384
    entries = [least(get_args(get_args(types[name])[0])[0]) for name in ("routes", "neighbours")]
    others = count_entries([replace(REPORT.telemetry, routes=(), neighbours=())], Telemetry)
    for result, count in ((_ACCEPTED, MAX_ENTRIES), (_REFUSED, MAX_ENTRIES + 1)):
        times = (most, count - most - others)
        yield _case(
            "report",
            result,
            *(
                {"path": ("telemetry", name), "entry": entry, "times": number}
                for name, entry, number in zip(("routes", "neighbours"), entries, times, strict=True)
            ),
        )


def _characters() -> Iterator[Case]:
    """Yield host names that have more bytes, and more UTF-16 units, than characters."""
    for result, count in ((_ACCEPTED, 255), (_REFUSED, 256)):
        yield _case("report", result, {"path": ("telemetry", "system", "hostname"), "value": "\U0001f600" * count})


def _case(message: str, result: str, *changes: Case) -> Case:
    return {"message": message, "changes": changes, "result": result}
