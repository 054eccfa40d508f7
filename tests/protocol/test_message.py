"""The shape that registrations, resets, peer answers and verdicts share."""

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


def test_seal_and_unseal_are_inverse() -> None:
    assert message.seal(Purpose.RESET, KEY, MEMBERS) == BODY
    assert message.unseal(Purpose.RESET, RING, BODY) == (MEMBERS, KEY)


def test_a_problem_document_ends_with_the_signed_members() -> None:
    head = b'{"type":"urn:example","title":"T.","status":409,"detail":"D",'
    assert head + body_of(SIGNED, Purpose.VERDICT)[1:] == ANSWER
    assert message.unseal(Purpose.VERDICT, RING, ANSWER) == (MEMBERS, KEY)


def test_an_empty_problem_adds_no_member() -> None:
    assert message.seal(Purpose.RESET, KEY, MEMBERS, problem={}) == BODY


def test_unseal_returns_the_key_that_signed() -> None:
    assert message.unseal(Purpose.RESET, RING, body_of(SIGNED, key=OLDEST_KEY))[1] == OLDEST_KEY


@pytest.mark.parametrize("body", [BODY, ANSWER], ids=["request", "answer"])
def test_a_truncated_body_is_refused(body: bytes) -> None:
    for length in range(len(body)):
        with pytest.raises(Malformed):
            message.unseal(Purpose.VERDICT, RING, body[:length])


@pytest.mark.parametrize("rest", [b" ", b"\n", b"\x00", b"}", b"x", BODY, BODY[1:]])
def test_trailing_data_is_refused(rest: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        message.unseal(Purpose.RESET, RING, BODY + rest)
    assert isinstance(refusal.value, Malformed | BadSignature)


@pytest.mark.parametrize("bit", range(8))
def test_a_change_of_any_bit_of_a_request_is_refused(bit: int) -> None:
    for place in range(len(BODY)):
        changed = bytearray(BODY)
        changed[place] ^= 1 << bit
        with pytest.raises(Refusal) as refusal:
            message.unseal(Purpose.RESET, RING, bytes(changed))
        assert isinstance(refusal.value, Malformed | BadSignature)


@pytest.mark.parametrize("bit", range(8))
def test_a_change_of_any_signed_bit_is_refused(bit: int) -> None:
    start = len(b'{"data":')
    for place in range(start, start + len(SIGNED)):
        changed = bytearray(BODY)
        changed[place] ^= 1 << bit
        with pytest.raises(BadSignature):
            message.unseal(Purpose.RESET, RING, bytes(changed))


# The unsigned members are for people. Changing them must never change the signed ones.
@pytest.mark.parametrize("bit", range(8))
def test_a_change_of_an_unsigned_bit_does_not_change_the_answer(bit: int) -> None:
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
def test_a_message_for_another_purpose_is_refused(made_for: Purpose, used_for: Purpose) -> None:
    body = message.seal(made_for, KEY, MEMBERS)
    if made_for is used_for:
        assert message.unseal(used_for, RING, body)[0] == MEMBERS
    else:
        with pytest.raises(BadSignature, match=f"'{used_for}'"):
            message.unseal(used_for, RING, body)


def test_a_foreign_key_is_refused() -> None:
    with pytest.raises(BadSignature):
        message.unseal(Purpose.RESET, RING, body_of(SIGNED, key=FOREIGN_KEY))


def test_an_empty_ring_verifies_no_message() -> None:
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
def test_a_request_with_leading_members_is_refused(front: bytes) -> None:
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


def test_white_space_after_data_breaks_the_signature() -> None:
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
def test_signed_data_that_is_not_strict_json_is_malformed(signed: bytes) -> None:
    with pytest.raises(Malformed):
        message.unseal(Purpose.RESET, RING, body_of(signed))


def test_the_limit_is_256_kibibytes() -> None:
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


# The detail of a refusal may quote the sender.
@pytest.mark.parametrize("detail", DECOYS, ids=lambda detail: ascii(detail[:20]))
def test_a_member_name_inside_a_string_is_no_member(detail: str) -> None:
    body = message.seal(Purpose.VERDICT, KEY, MEMBERS, problem=ClockSkew(detail).members)
    assert message.unseal(Purpose.VERDICT, RING, body) == (MEMBERS, KEY)


@given(st.text(), st.text())
def test_no_detail_hides_the_signed_members(detail: str, member: str) -> None:
    body = message.seal(Purpose.VERDICT, KEY, {"m": member}, problem=ClockSkew(detail).members)
    assert message.unseal(Purpose.VERDICT, RING, body)[0] == {"m": member}
