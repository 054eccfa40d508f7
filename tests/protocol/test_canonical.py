"""The canonical JSON encoding, and the strict parser that agrees with every other parser."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_protocol import canonical
from kattila_protocol.canonical import MAX_INTEGER
from kattila_protocol.errors import Malformed

ENCODINGS: list[tuple[dict[str, Any], bytes]] = [
    ({}, b"{}"),
    ({"b": 1, "a": 2}, b'{"b":1,"a":2}'),
    ({"none": None, "yes": True, "no": False}, b'{"none":null,"yes":true,"no":false}'),
    ({"list": [], "object": {}, "nested": [[1], {"x": [2]}]}, b'{"list":[],"object":{},"nested":[[1],{"x":[2]}]}'),
    ({"largest": MAX_INTEGER, "least": -MAX_INTEGER}, b'{"largest":9223372036854775807,"least":-9223372036854775807}'),
    ({"name": "käsi"}, rb'{"name":"k\u00e4si"}'),
    ({"beyond": "\U0001f525"}, rb'{"beyond":"\ud83d\udd25"}'),
    ({"control": "\x00\n\x7f"}, rb'{"control":"\u0000\n\u007f"}'),
    ({"quotes": '"\\/'}, rb'{"quotes":"\"\\/"}'),
    ({"looks like an escape": "\\ud800"}, rb'{"looks like an escape":"\\ud800"}'),
    ({"": ""}, b'{"":""}'),
]


@pytest.mark.parametrize(("value", "data"), ENCODINGS, ids=lambda part: repr(part)[:30])
def test_encode_and_parse_are_inverse(value: dict[str, Any], data: bytes) -> None:
    assert canonical.encode(value) == data
    assert canonical.parse_object(data) == value


# 1 == True in Python, so the table above cannot distinguish them.
def test_true_stays_true() -> None:
    assert canonical.parse_object(b'{"a":true,"b":1}')["a"] is True


@dataclass(frozen=True)
class Inner:
    second: int
    first: tuple[str, ...]


@dataclass(frozen=True)
class Outer:
    inner: Inner
    absent: None = None


def test_a_dataclass_becomes_an_object_in_the_order_of_its_fields() -> None:
    assert canonical.encode(Outer(Inner(1, ("x", "y")))) == b'{"inner":{"second":1,"first":["x","y"]},"absent":null}'


@pytest.mark.parametrize("value", [..., {1, 2}, b"bytes", Outer], ids=repr)
def test_a_type_that_json_lacks_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError):
        canonical.encode(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_not_encoded(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical.encode({"load": value})


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("\ud800", rb'{"name":"\ufffd"}'),
        ("a\udc80b", rb'{"name":"a\ufffdb"}'),
        ("\ud800\ud800", rb'{"name":"\ufffd\ufffd"}'),
        ("\ud800\U0001f525", rb'{"name":"\ufffd\ud83d\udd25"}'),
        ("\\\ud800", rb'{"name":"\\\ufffd"}'),
    ],
    ids=ascii,
)
def test_a_lone_surrogate_is_encoded_as_replacement_character(text: str, data: bytes) -> None:
    assert canonical.encode({"name": text}) == data


MALFORMED: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("white space", b"  "),
    ("list", b"[]"),
    ("string", b'"data"'),
    ("number", b"1"),
    ("null", b"null"),
    ("cut off", b'{"a":1'),
    ("trailing data", b'{"a":1}{}'),
    ("trailing comma", b'{"a":1,}'),
    ("trailing NUL", b'{"a":1}\x00'),
    ("single quotes", b"{'a':1}"),
    ("comment", b'{"a":1/**/}'),
    ("duplicate member", b'{"a":1,"a":1}'),
    ("duplicate member in two spellings", rb'{"a":1,"\u0061":2}'),
    ("nested duplicate member", b'{"a":[{"b":1,"c":2,"b":3}]}'),
    ("NaN", b'{"a":NaN}'),
    ("Infinity", b'{"a":Infinity}'),
    ("-Infinity", b'{"a":-Infinity}'),
    ("1.5", b'{"a":1.5}'),
    ("1.0", b'{"a":1.0}'),
    ("1e2", b'{"a":1e2}'),
    ("1e400", b'{"a":1e400}'),
    ("-0.0", b'{"a":-0.0}'),
    ("leading zero", b'{"a":01}'),
    ("plus sign", b'{"a":+1}'),
    ("hexadecimal", b'{"a":0x10}'),
    ("2**63", b'{"a":9223372036854775808}'),
    ("-2**63", b'{"a":-9223372036854775808}'),
    ("1,000 digits", b'{"a":' + b"9" * 1000 + b"}"),
    ("5,000 digits", b'{"a":-' + b"9" * 5000 + b"}"),
    ("lone high surrogate", rb'{"a":"\ud800"}'),
    ("lone low surrogate", rb'{"a":"\udc00"}'),
    ("surrogates in the wrong order", rb'{"a":"\udc00\ud800"}'),
    ("lone surrogate in a name", rb'{"\ud800":1}'),
    ("nested lone surrogate", rb'{"a":[{"b":"x\udfff"}]}'),
    ("cut escape", rb'{"a":"\u12"}'),
    ("unknown escape", rb'{"a":"\x41"}'),
    ("raw line feed in a string", b'{"a":"\n"}'),
    ("raw NUL in a string", b'{"a":"\x00"}'),
    ("raw UTF-8", '{"a":"ä"}'.encode()),
    ("Latin-1", b'{"a":"\xe4"}'),
    ("byte order mark", b'\xef\xbb\xbf{"a":1}'),
    ("UTF-16", '{"a":1}'.encode("utf-16")),
    ("UTF-16 without a mark", '{"a":1}'.encode("utf-16-le")),
    ("UTF-32", '{"a":1}'.encode("utf-32-be")),
    ("10,000 brackets", b'{"a":' + b"[" * 10_000),
    ("10,000 brackets, closed", b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    ("100,000 brackets", b"[" * 100_000),
    ("100,000 braces", b'{"a":' * 100_000),
]


@pytest.mark.parametrize("data", [data for _, data in MALFORMED], ids=[name for name, _ in MALFORMED])
def test_malformed_data_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        canonical.parse_object(data)


def test_truncated_data_is_refused() -> None:
    data = canonical.encode({"a": [1, {"b": "c\u00e4"}], "d": None})
    for length in range(len(data)):
        with pytest.raises(Malformed):
            canonical.parse_object(data[:length])


# A quadratic search for duplicates would take hours.
def test_a_duplicate_among_100_000_members_is_found_quickly() -> None:
    members = ",".join(f'"{number}":1' for number in range(100_000))
    with pytest.raises(Malformed, match="'99999' appears twice"):
        canonical.parse_object(f'{{{members},"99999":1}}'.encode())


strict_text = st.text(st.characters(exclude_categories=["Cs"]))
strict_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | strict_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strict_text, inner, max_size=4),
    max_leaves=10,
)
strict_objects = st.dictionaries(strict_text, strict_values, max_size=4)


@given(strict_objects)
def test_encoded_values_parse_back(value: dict[str, Any]) -> None:
    data = canonical.encode(value)
    assert data.isascii()
    assert canonical.parse_object(data) == value
    assert canonical.encode(canonical.parse_object(data)) == data


@given(st.dictionaries(strict_text, st.text(st.characters())))
def test_any_text_is_encoded_to_valid_json(value: dict[str, str]) -> None:
    assert canonical.parse_object(canonical.encode(value)).keys() == value.keys()


@given(strict_objects)
def test_the_json_module_parses_the_same_value(value: dict[str, Any]) -> None:
    assert json.loads(canonical.encode(value)) == value
