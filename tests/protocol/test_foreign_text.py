"""Text of others is shown on one line, without control characters, and not too long."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_protocol import verdict
from kattila_protocol.errors import IdentityConflict
from kattila_protocol.foreign_text import DETAIL_LENGTH, escaped, shown, shown_lines
from kattila_protocol.message import MAX_MESSAGE_BYTES
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.verdict import MAX_VERDICT_BYTES, Verdict
from protocol.samples import AGENT, KEY, NONCE

any_text = st.text(st.characters(codec=None))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("node-1.example.net", "node-1.example.net"),
        ("Müller, 東京, käsi", "Müller, 東京, käsi"),
        ("a\x1b[2J\x07", r"a\u001b[2J\u0007"),
        ("one\r\ntwo\ttabs", r"one\u000d\u000atwo\u0009tabs"),
        ("\u202eevil\u2066\u200b\ufeff", r"\u202eevil\u2066\u200b\ufeff"),
        ("\u2028\u2029\x85\x9b\x7f\x00", r"\u2028\u2029\u0085\u009b\u007f\u0000"),
        ("\ud800 \ue000", r"\ud800 \ue000"),
        ("\U000e0041", r"\udb40\udc41"),
        ("😀", "😀"),
        ("", ""),
    ],
)
def test_characters_that_are_not_letters_or_signs_are_escaped(text: str, plain: str) -> None:
    assert escaped(text) == plain


@given(any_text)
def test_an_escaped_text_is_one_line_without_control_characters(text: str) -> None:
    plain = escaped(text)
    assert not {unicodedata.category(character) for character in plain} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert len(plain.splitlines()) <= 1
    assert escaped(plain) == plain


@given(any_text)
def test_the_escapes_are_those_of_json(text: str) -> None:
    quoted = json.dumps(text, ensure_ascii=False)
    assert json.loads(escaped(quoted)) == json.loads(quoted)


@given(any_text, st.integers(2, 80))
def test_a_shown_text_has_at_most_so_many_characters(text: str, length: int) -> None:
    assert len(shown(text, length)) <= length
    assert shown(text, length) == escaped(text) or shown(text, length).endswith("…")


def test_only_line_feeds_of_lines_stay() -> None:
    assert shown_lines("one\ntwo\r\n\x1bthree\x0b") == "one\ntwo\\u000d\n\\u001bthree\\u000b"


@pytest.mark.parametrize("character", ["x", '"', "\\", "\x1b", "é", "😀", "\U000e0041"])
def test_a_verdict_with_the_longest_detail_is_within_its_bound_and_read(character: str) -> None:
    refusal = IdentityConflict(character * 1_000_000)
    assert len(refusal.detail) == DETAIL_LENGTH
    greatest = 2**53 - 1
    given = Verdict(refusal.kind, AGENT, NONCE, greatest, -greatest, greatest, greatest, refusal.detail)
    body = verdict.seal(given, KEY, refusal)
    assert len(body) <= MAX_VERDICT_BYTES <= MAX_MESSAGE_BYTES
    assert verdict.unseal(body, Ring((RingEntry(KEY, 0),)), NONCE) == given
