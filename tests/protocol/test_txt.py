"""Selecting the PSK among TXT records."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_protocol.signing import fingerprint
from kattila_protocol.txt import MIN_PSK_BYTES, PREFIX, TxtError, has_prefix, select_psk

TxtRecords = list[tuple[bytes, ...]]
PSK = b"0123456789abcdef"
OTHER = b"fedcba9876543210"

SELECTED: list[tuple[str, TxtRecords, bytes]] = [
    ("only record", [(PSK,)], PSK),
    ("only record, marked", [(b"kattila=" + PSK,)], PSK),
    ("strings are joined without a space", [(PSK[:5], PSK[5:])], PSK),
    ("the mark may span two strings", [(b"kat", b"tila=" + PSK)], PSK),
    ("255 bytes and one more", [(b"x" * 255, b"y")], b"x" * 255 + b"y"),
    ("white space around it", [(b" \t" + PSK + b"\r\n",)], PSK),
    ("white space after the mark", [(b"kattila= " + PSK,)], PSK),
    ("white space inside stays", [(b"0123456789 abcdef",)], b"0123456789 abcdef"),
    ("marked one beside others", [(b"v=spf1 -all, and more",), (b"kattila=" + PSK,), (OTHER,)], PSK),
    ("two of equal value", [(PSK,), (PSK[:1], PSK[1:])], PSK),
    ("two marked of equal value", [(b"kattila=" + PSK,), (b"kattila= " + PSK,)], PSK),
    ("mark inside does not count", [(b"my kattila=" + PSK,)], b"my kattila=" + PSK),
    ("mark in capitals does not count", [(b"KATTILA=" + PSK,)], b"KATTILA=" + PSK),
    ("only the first mark is removed", [(b"kattila=kattila=" + PSK,)], b"kattila=" + PSK),
    ("UTF-8", [("yötön yö, ähtäri".encode(),)], "yötön yö, ähtäri".encode()),
    ("bytes count, not characters", [(("ä" * 8).encode(),)], ("ä" * 8).encode()),
]


@pytest.mark.parametrize(("records", "psk"), [case[1:] for case in SELECTED], ids=[case[0] for case in SELECTED])
def test_the_psk_is_selected(records: TxtRecords, psk: bytes) -> None:
    assert select_psk(records) == psk
    assert select_psk(reversed(records)) == psk


REFUSED: list[tuple[str, TxtRecords, str]] = [
    ("no record", [], "no TXT record"),
    ("two unmarked", [(PSK,), (OTHER,)], "2 TXT records could be the PSK"),
    ("two marked", [(b"kattila=" + PSK,), (b"kattila=" + OTHER,)], "2 TXT records could be the PSK"),
    ("15 bytes", [(PSK[1:],)], "15 bytes: it needs at least 16"),
    ("15 bytes and white space", [(PSK[1:] + b"    ",)], "15 bytes"),
    ("15 bytes after the mark", [(b"kattila=" + PSK[1:],)], "15 bytes"),
    ("empty record", [()], "0 bytes"),
    ("empty string", [(b"",)], "0 bytes"),
    ("nothing after the mark", [(b"kattila=",), (PSK,)], "0 bytes"),
    ("Latin-1", [("yötön yö, ähtäri".encode("latin-1"),)], "not UTF-8"),
    ("lone surrogate as UTF-8", [(PSK + b"\xed\xa0\x80",)], "not UTF-8"),
]


@pytest.mark.parametrize(("records", "text"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_an_unusable_answer_is_refused(records: TxtRecords, text: str) -> None:
    with pytest.raises(TxtError, match=text):
        select_psk(records)


def test_an_error_names_two_candidates_by_fingerprint() -> None:
    with pytest.raises(TxtError) as error:
        select_psk([(PSK,), (OTHER,)])
    assert fingerprint(PSK) in str(error.value)
    assert fingerprint(OTHER) in str(error.value)


def test_a_record_without_prefix_names_only_certain_psks() -> None:
    assert select_psk([(PSK,)], without_prefix={PSK}) == PSK
    assert select_psk([(PSK,), (OTHER,)], without_prefix={PSK}) == PSK
    assert select_psk([(b"kattila=" + OTHER,), (PSK,)], without_prefix={PSK}) == OTHER
    for records in ([(OTHER,)], [(OTHER,), (OTHER * 2,)]):
        with pytest.raises(TxtError, match="no TXT record starts with 'kattila=', as earlier ones did"):
            select_psk(records, without_prefix={PSK})
    with pytest.raises(TxtError, match="has no TXT record"):
        select_psk([], without_prefix={PSK})


def test_the_prefix_is_recognised() -> None:
    assert has_prefix([(OTHER,), (b" kat", b"tila=" + PSK)])
    assert not has_prefix([(OTHER,), (b"my kattila=" + PSK,)])


@pytest.mark.parametrize("records", [case[1] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_no_error_shows_a_value(records: TxtRecords) -> None:
    values = [b"".join(strings).strip().removeprefix(PREFIX) for strings in records]
    with pytest.raises(TxtError) as error:
        select_psk(records)
    shown = "".join(traceback.format_exception(error.value)) + repr(error.value)
    for value in filter(None, values):
        assert value.decode("latin-1") not in shown
        assert repr(value)[2:-1] not in shown


@given(st.lists(st.lists(st.binary()).map(tuple)))
def test_any_answer_gives_a_psk_or_an_error(records: TxtRecords) -> None:
    try:
        psk = select_psk(records)
    except TxtError as error:
        assert str(error)
    else:
        assert len(psk) >= MIN_PSK_BYTES
        assert psk == psk.strip()
        assert psk.decode()


@given(st.text(min_size=16, max_size=300))
def test_any_text_may_be_split_into_strings(text: str) -> None:
    value = text.encode("utf-8", "replace").strip().removeprefix(PREFIX).strip()
    if len(value) >= MIN_PSK_BYTES and not value.startswith(PREFIX):
        assert select_psk([(value[:255], value[255:510], value[510:])]) == value
