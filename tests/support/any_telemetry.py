"""Makes telemetry of any content within the bounds of the protocol, as a liar may report it."""

from __future__ import annotations

import random
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from kattila_protocol.bounds import Bound, member_types, most
from kattila_protocol.report import Telemetry

# What code may take for something else. Some occur often, so that entries refer to each other.
_TEXTS = (
    *("", "x", "/", ":", "[", "]", "%", ",", "\x00", "\ud7ff", "\u202e\x1b[2J\n", "é" * 30, "lo", "eth0", "wg0"),
    *("0.0.0.0/0", "::/0", "0/0", "192.0.2.1", "192.0.2.1/33", "999.0.0.1:1", "1:2:3", "::1%eth0", "[::1]:x"),
    *("192.0.2.1:99999999", "[fe80::1%eth0]:0", "wireguard", "lookup", "inet", "inet6", "UP", "A" * 43 + "="),
)


def any_telemetry(chance: random.Random) -> Telemetry:
    """Return telemetry with random values, many of them at their bounds."""
    made = _any(Telemetry, most(0), chance)
    assert isinstance(made, Telemetry)
    return made


def _any(hint: Any, bound: Bound, chance: random.Random) -> Any:
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        return _any(inner[0], inner[1], chance)
    if NoneType in inner:
        return None if chance.random() < 0.2 else _any(inner[0], bound, chance)
    if get_origin(hint) is tuple:
        hints = inner[:1] * chance.choice((0, 1, 2, 4)) if inner[-1] is Ellipsis else inner
        return tuple(_any(each, most(0), chance) for each in hints)
    if get_origin(hint) is dict:
        return {_any(inner[0], most(0), chance): _any(inner[1], most(0), chance) for _ in range(2)}
    if hint in (bool, int, str):
        return _scalar(hint, bound, chance)
    return hint(**{name: _any(each, most(0), chance) for name, each in member_types(hint).items()})


def _scalar(kind: type, bound: Bound, chance: random.Random) -> bool | int | str:
    if kind is str:
        return chance.choice(_TEXTS)[: bound.greatest or None]
    if kind is bool:
        return chance.random() < 0.5
    least, greatest = bound.least, max(1, bound.greatest)
    return chance.choice((least, greatest, max(0, least), chance.randint(least, greatest)))
