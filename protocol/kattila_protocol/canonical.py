"""The JSON encoding of all signed objects, and its strict parser (docs/PROTOCOL.md, "Encoding")."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, NoReturn

from kattila_protocol.errors import Malformed

# SQLite and most languages have a signed 64-bit integer.
MAX_INTEGER = 2**63 - 1

# Only such a text can contain a number beyond MAX_INTEGER, which has 19 digits; or a lone surrogate.
_LONG_NUMBER = re.compile(r"[0-9]{19}")
_SURROGATE = re.compile(r"\\u[dD]")

# One escape of a JSON string: a surrogate pair, a lone surrogate (the group), or any other.
_ESCAPE = re.compile(rb"\\(?:ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|(ud[89a-f][0-9a-f]{2})|.)")


def encode(value: object, *, omit_defaults: bool = False) -> bytes:
    """Return `value` as compact ASCII JSON; dataclasses become objects with their fields in order.

    With `omit_defaults`, a field that has its default value is left out. A lone surrogate, from a name that the kernel
    returned as bytes, becomes U+FFFD.

    Raises:
        ValueError: NaN or infinity.
        TypeError: a type that JSON does not have.
    """
    encoded = (_BRIEF if omit_defaults else _FULL).encode(value).encode("ascii")
    return _ESCAPE.sub(_without_lone_surrogate, encoded) if b"\\ud" in encoded else encoded


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse one JSON object strictly, so that every parser that accepts it gets the same value.

    Raises:
        Malformed: not ASCII, not JSON, not an object, a duplicate member, NaN or Infinity, a number with a fraction or
            beyond 64 bits, a lone surrogate, or nested too deeply.
    """
    try:
        text = data.decode("ascii")
        value = json.loads(
            text,
            object_pairs_hook=_unique_members,
            # A call for each number takes most of the time.
            parse_int=_bounded_integer if _LONG_NUMBER.search(text) else None,
            parse_float=_refuse_float,
            parse_constant=_refuse_float,
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise Malformed("the object is not ASCII: write other characters as \\uXXXX") from error
    except UnicodeEncodeError as error:
        raise Malformed("a string contains a lone surrogate") from error
    except RecursionError as error:
        raise Malformed("the object is nested too deeply") from error
    except ValueError as error:
        raise Malformed(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    return value


@cache
def _defaults(shape: Any) -> tuple[tuple[str, object], ...]:
    """Return each field's name and default; MISSING, which equals nothing else, stands for none."""
    if not is_dataclass(shape):
        raise TypeError(f"cannot encode {shape.__name__}")
    return tuple((field.name, field.default) for field in fields(shape))


def _encoder(*, omits_defaults: bool) -> json.JSONEncoder:
    def members(value: object) -> dict[str, object]:
        shape: Any = type(value)
        found = ((name, getattr(value, name), default) for name, default in _defaults(shape))
        return {name: member for name, member, default in found if not omits_defaults or member != default}

    return json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=members)


_FULL, _BRIEF = _encoder(omits_defaults=False), _encoder(omits_defaults=True)


def _without_lone_surrogate(match: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if match.group(1) else match.group()


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise Malformed(f"the member {counts.most_common(1)[0][0][:40]!r} appears twice")
    return members


def _bounded_integer(digits: str) -> int:
    if len(digits) > len(str(MAX_INTEGER)) + 1 or abs(int(digits)) > MAX_INTEGER:
        raise Malformed(f"a number of {len(digits)} digits exceeds 64 bits")
    return int(digits)


def _refuse_float(text: str) -> NoReturn:
    raise Malformed(f"{text[:20]} is not an integer")
