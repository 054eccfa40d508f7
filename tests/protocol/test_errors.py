"""The tree of refusals."""

from __future__ import annotations

import pytest

from kattila_protocol import errors
from kattila_protocol.errors import PROBLEM_PREFIX, Refusal
from protocol.samples import KINDS


def test_the_tree_is_flat() -> None:
    assert {kind.__bases__ for kind in KINDS} == {(Refusal,)}


def test_each_kind_has_a_name_of_its_own() -> None:
    assert len({kind.kind for kind in KINDS}) == len({kind.title for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_each_kind_is_an_error_to_http(kind: type[Refusal]) -> None:
    assert 400 <= kind.status <= 599
    assert kind.title.endswith(".")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_problem_document_has_the_members_of_rfc_9457(kind: type[Refusal]) -> None:
    assert list(kind("what was wrong").members.items()) == [
        ("type", PROBLEM_PREFIX + kind.kind),
        ("title", kind.title),
        ("status", kind.status),
        ("detail", "what was wrong"),
    ]


def test_refusal_may_say_when_to_try_again() -> None:
    assert errors.Overloaded("full", retry_after_seconds=5).retry_after_seconds == 5
    assert errors.Overloaded("full").retry_after_seconds is None
