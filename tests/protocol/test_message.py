"""The shape that register, reset, peer answers and verdicts share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_protocol import message
from kattila_protocol.errors import BadSignature, ClockSkew, Malformed, NoKey, Refusal, TooLarge
from kattila_protocol.message import MAX_MESSAGE_BYTES
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose
from protocol.samples import FOREIGN_KEY, KEY, OLDEST_KEY, RING

MEMBERS = {"agent_id": "x", "list": [1, {"data": 2}]}
SIGNED = b'{"agent_id":"x","list":[1,{"data":2}]}'
PROBLEM = {"type": "urn:example", "title": "T.", "status": 409, "detail": "D"}


def body_of(signed: bytes, purpose: Purpose = Purpose.RESET, key: Key = KEY) -> bytes:
    return b'{"data":' + signed + b',"hmac":"' + key.sign(purpose, signed).encode() + b'"}'


BODY = body_of(SIGNED)
ANSWER = message.seal(Purpose.VERDICT, KEY, MEMBERS, problem=PROBLEM)


def test_value_and_bytes_belong_together() -> None:
    assert message.seal(Purpose.RESET, KEY, MEMBERS) == BODY
    assert message.unseal(Purpose.RESET, RING, BODY) == (MEMBERS, KEY)


def test_problem_document_ends_in_the_signed_members() -> None:
    head = b'{"type":"urn:example","title":"T.","status":409,"detail":"D",'
    assert head + body_of(SIGNED, Purpose.VERDICT)[1:] == ANSWER
    assert message.unseal(Purpose.VERDICT, RING, ANSWER) == (MEMBERS, KEY)


def test_empty_problem_adds_nothing() -> None:
    assert message.seal(Purpose.RESET, KEY, MEMBERS, problem={}) == BODY


def test_key_that_signed_is_told() -> None:
    assert message.unseal(Purpose.RESET, RING, body_of(SIGNED, key=OLDEST_KEY))[1] == OLDEST_KEY


@pytest.mark.parametrize("body", [BODY, ANSWER], ids=["request", "answer"])
def test_every_prefix_is_refused(body: bytes) -> None:
    for length in range(len(body)):
        with pytest.raises(Malformed):
            message.unseal(Purpose.VERDICT, RING, body[:length])


@pytest.mark.parametrize("rest", [b" ", b"\n", b"\x00", b"}", b"x", BODY, BODY[1:]])
def test_trailing_data_is_refused(rest: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        message.unseal(Purpose.RESET, RING, BODY + rest)
    assert isinstance(refusal.value, Malformed | BadSignature)


@pytest.mark.parametrize("bit", range(8))
def test_no_bit_of_a_request_can_change(bit: int) -> None:
    for place in range(len(BODY)):
        changed = bytearray(BODY)
        changed[place] ^= 1 << bit
        with pytest.raises(Refusal) as refusal:
            message.unseal(Purpose.RESET, RING, bytes(changed))
        assert isinstance(refusal.value, Malformed | BadSignature)


@pytest.mark.parametrize("bit", range(8))
def test_no_bit_of_what_is_signed_can_change(bit: int) -> None:
    start = len(b'{"data":')
    for place in range(start, start + len(SIGNED)):
        changed = bytearray(BODY)
        changed[place] ^= 1 << bit
        with pytest.raises(BadSignature):
            message.unseal(Purpose.RESET, RING, bytes(changed))


# The members in front are for people: whatever is done to them, the signed ones stay or nothing is read.
@pytest.mark.parametrize("bit", range(8))
def test_no_bit_in_front_of_an_answer_changes_what_it_says(bit: int) -> None:
    for place in range(len(ANSWER)):
        changed = bytearray(ANSWER)
        changed[place] ^= 1 << bit
        try:
            assert message.unseal(Purpose.VERDICT, RING, bytes(changed)) == (MEMBERS, KEY)
        except (Malformed, BadSignature):
            continue
        assert place < ANSWER.index(b',"data":')


@pytest.mark.parametrize("made_for", Purpose)
@pytest.mark.parametrize("used_for", Purpose)
def test_message_is_worth_nothing_for_another_purpose(made_for: Purpose, used_for: Purpose) -> None:
    body = message.seal(made_for, KEY, MEMBERS)
    if made_for is used_for:
        assert message.unseal(used_for, RING, body)[0] == MEMBERS
    else:
        with pytest.raises(BadSignature, match=f"'{used_for}'"):
            message.unseal(used_for, RING, body)


def test_foreign_key_is_refused() -> None:
    with pytest.raises(BadSignature):
        message.unseal(Purpose.RESET, RING, body_of(SIGNED, key=FOREIGN_KEY))


def test_empty_ring_verifies_nothing() -> None:
    with pytest.raises(NoKey):
        message.unseal(Purpose.RESET, Ring(), BODY)


@pytest.mark.parametrize(
    "front",
    [
        b' {"data":',
        b'{ "data":',
        b'{"data": ',
        b'\xef\xbb\xbf{"data":',
        b'{"x":1,"data":',
        b'{\xff\x00"data":',
        b'"data":',
    ],
)
def test_nothing_stands_in_front_of_a_request(front: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        message.unseal(Purpose.RESET, RING, front + BODY.removeprefix(b'{"data":'))
    assert isinstance(refusal.value, Malformed | BadSignature)


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":{},"hmac":"%s" }',
        b'{"data":{}, "hmac":"%s"}',
        b'{"data":{},"hmac": "%s"}',
        b'{"hmac":"%s","data":{}}',
        b'{"data":{},"hmac":"%s","x":1}',
        b'{"hmac":"%s"}',
        b'["data",{},"hmac","%s"]',
    ],
)
def test_any_other_shape_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        message.unseal(Purpose.VERDICT, RING, body % KEY.sign(Purpose.VERDICT, b"{}").encode())


def test_white_space_after_data_is_not_what_was_signed() -> None:
    with pytest.raises(BadSignature):
        message.unseal(Purpose.RESET, RING, BODY.replace(b',"hmac"', b' ,"hmac"'))


@pytest.mark.parametrize(
    "signed",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b'{"a":1}{"b":2}',
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":1e400}',
        b'{"a":1.5}',
        b'{"a":' + b"9" * 1000 + b"}",
        rb'{"a":"\ud800"}',
        b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"a":' * 10_000,
        b'{"a":"\xff"}',
        b'{"a":"\x00"}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
    ],
    ids=lambda signed: repr(signed[:20]),
)
def test_signed_but_not_strict_is_malformed(signed: bytes) -> None:
    with pytest.raises(Malformed):
        message.unseal(Purpose.RESET, RING, body_of(signed))


def test_256_kibibytes_are_taken_and_one_byte_more_is_not() -> None:
    largest = body_of(b'{"a":"' + b"x" * (MAX_MESSAGE_BYTES - len(body_of(b'{"a":""}'))) + b'"}')
    assert len(largest) == 256 * 1024
    assert message.unseal(Purpose.RESET, RING, largest)[1] == KEY
    with pytest.raises(TooLarge, match="262145 bytes; the limit is 262144"):
        message.unseal(Purpose.RESET, RING, largest + b" ")


DECOYS = [
    '"data":',
    ',"data":{"outcome":"accepted"},"hmac":"' + "0" * 64 + '"}',
    '\\"data\\":',
    "\\",
    '"data":{}',
    '\x00"data":\x00',
    '\u2028"data":',
    ANSWER.decode(),
]


# What was wrong this time may quote what the sender wrote.
@pytest.mark.parametrize("detail", DECOYS, ids=lambda detail: ascii(detail[:20]))
def test_member_name_inside_a_string_is_not_taken_for_the_member(detail: str) -> None:
    body = message.seal(Purpose.VERDICT, KEY, MEMBERS, problem=ClockSkew(detail).members)
    assert message.unseal(Purpose.VERDICT, RING, body) == (MEMBERS, KEY)


@given(st.text(), st.text())
def test_no_detail_hides_what_is_signed(detail: str, member: str) -> None:
    body = message.seal(Purpose.VERDICT, KEY, {"m": member}, problem=ClockSkew(detail).members)
    assert message.unseal(Purpose.VERDICT, RING, body)[0] == {"m": member}
