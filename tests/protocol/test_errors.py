"""The refusals and their problem documents."""

from __future__ import annotations

import pytest

from kattila_protocol import errors
from kattila_protocol.errors import PROBLEM_PREFIX, Refusal
from protocol.samples import KINDS


def test_each_kind_derives_directly_from_refusal() -> None:
    assert {kind.__bases__ for kind in KINDS} == {(Refusal,)}


def test_each_kind_has_its_own_name_and_title() -> None:
    assert len({kind.kind for kind in KINDS}) == len({kind.title for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_each_kind_has_an_http_error_status(kind: type[Refusal]) -> None:
    assert 400 <= kind.status <= 599
    assert kind.title.endswith(".")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_a_problem_document_has_the_members_of_rfc_9457(kind: type[Refusal]) -> None:
    assert list(kind("wrong").members.items()) == [
        ("type", PROBLEM_PREFIX + kind.kind),
        ("title", kind.title),
        ("status", kind.status),
        ("detail", "wrong"),
    ]


def test_a_refusal_may_have_a_retry_delay() -> None:
    assert errors.Overloaded("full", retry_after_seconds=5).retry_after_seconds == 5
    assert errors.Overloaded("full").retry_after_seconds is None
