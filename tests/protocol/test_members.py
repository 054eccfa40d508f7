"""Building typed values from parsed JSON; an error names the member by its path."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from kattila_protocol import canonical
from kattila_protocol.errors import Malformed
from kattila_protocol.members import build
from kattila_protocol.report import Report
from protocol.samples import REPORT


class Row(NamedTuple):
    key: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class Inner:
    count: int


@dataclass(frozen=True)
class Shape:
    text: str
    flag: bool
    maybe: Inner | None
    three: tuple[int, int, int]
    rows: tuple[Row, ...]
    labels: dict[str, str]
    detail: str = "none"


GOOD: dict[str, Any] = {
    "text": "x",
    "flag": False,
    "maybe": {"count": 0},
    "three": [1, 2, 3],
    "rows": [["k", ["p", "q"]], ["l", []]],
    "labels": {"site": "north"},
    "detail": "some",
}


def test_an_object_becomes_a_dataclass() -> None:
    rows = (Row("k", ("p", "q")), Row("l", ()))
    assert build(Shape, GOOD) == Shape("x", False, Inner(0), (1, 2, 3), rows, {"site": "north"}, "some")


def test_an_encoded_report_is_built_again() -> None:
    assert build(Report, json.loads(canonical.encode(REPORT))) == REPORT


def test_an_absent_member_takes_its_default_and_an_unknown_one_is_skipped() -> None:
    members = {name: value for name, value in GOOD.items() if name != "detail"}
    assert build(Shape, {**members, "of": "the future"}).detail == "none"


def test_an_optional_member_may_be_null() -> None:
    assert build(Shape, {**GOOD, "maybe": None}).maybe is None


@pytest.mark.parametrize("member", [name for name in GOOD if name != "detail"])
def test_a_member_without_default_is_required(member: str) -> None:
    with pytest.raises(Malformed, match=f"^{member} is missing$"):
        build(Shape, {name: value for name, value in GOOD.items() if name != member})


@pytest.mark.parametrize(
    ("member", "value", "why"),
    [
        ("text", 1, "text is not a string"),
        ("text", None, "text is not a string"),
        ("detail", None, "detail is not a string"),
        ("flag", 0, "flag is not true or false"),
        ("flag", "true", "flag is not true or false"),
        ("maybe", [], "maybe is not an object"),
        ("maybe", {}, "maybe.count is missing"),
        ("maybe", {"count": True}, "maybe.count is not an integer"),
        ("maybe", {"count": 1.0}, "maybe.count is not an integer"),
        ("maybe", {"count": None}, "maybe.count is not an integer"),
        ("three", [1, 2], "three has 2 items instead of 3"),
        ("three", [1, 2, 3, 4], "three has 4 items instead of 3"),
        ("three", "123", "three is not a list"),
        ("three", [1, 2, "3"], "three[2] is not an integer"),
        ("rows", {"0": ["k", []]}, "rows is not a list"),
        ("rows", ["k", []], "rows[0] is not a list"),
        ("rows", [{"key": "k", "prefixes": []}], "rows[0] is not a list"),
        ("rows", [["k"]], "rows[0] has 1 items instead of 2"),
        ("rows", [["k", []], ["l", [], 0]], "rows[1] has 3 items instead of 2"),
        ("rows", [["k", ["p", None]]], "rows[0][1][1] is not a string"),
        ("labels", [], "labels is not an object"),
        ("labels", {"site": 1}, "labels is not a string"),
    ],
)
def test_a_member_of_another_type_is_refused_with_its_path(member: str, value: object, why: str) -> None:
    with pytest.raises(Malformed) as refusal:
        build(Shape, {**GOOD, member: value})
    assert refusal.value.detail == why
