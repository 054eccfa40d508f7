"""The request that makes an agent forget itself, and the answer."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from kattila_protocol import message, reset
from kattila_protocol.errors import BadSignature, ClockSkew, Malformed
from kattila_protocol.reset import Reset, ResetAnswer
from kattila_protocol.signing import Purpose
from protocol.samples import AGENT, FOREIGN_KEY, KEY, NONCE, NOW, OTHER_AGENT, OTHER_NONCE, RING

ASKED = Reset(AGENT, NONCE, NOW)
ANSWERED = ResetAnswer(OTHER_AGENT, NONCE)


def test_value_and_bytes_belong_together() -> None:
    body = reset.seal(ASKED, KEY)
    assert body.startswith(b'{"data":{"agent_id":"5f0c7a3e-1b2d-4c8e-9a6f-0123456789ab","nonce":"0011')
    assert reset.unseal(body, RING, AGENT, NOW) == (ASKED, KEY)


# The id ends with the reset, so that the same request is worth nothing afterwards, here or elsewhere.
def test_reset_cannot_be_repeated() -> None:
    with pytest.raises(BadSignature, match="addressed to another id"):
        reset.unseal(reset.seal(ASKED, KEY), RING, OTHER_AGENT, NOW)


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.RESET])
def test_reset_made_for_another_purpose_is_refused(purpose: Purpose) -> None:
    with pytest.raises(BadSignature):
        reset.unseal(message.seal(purpose, KEY, ASKED), RING, AGENT, NOW)


def test_reset_by_a_stranger_is_refused() -> None:
    with pytest.raises(BadSignature):
        reset.unseal(reset.seal(ASKED, FOREIGN_KEY), RING, AGENT, NOW)


@pytest.mark.parametrize("offset", [600_001, -600_001])
def test_reset_of_another_time_is_refused(offset: int) -> None:
    with pytest.raises(ClockSkew):
        reset.unseal(reset.seal(ASKED, KEY), RING, AGENT, NOW + offset)


@pytest.mark.parametrize(
    ("member", "value"),
    [("agent_id", None), ("agent_id", "manager"), ("nonce", "x"), ("timestamp", None), ("timestamp", -1)],
)
def test_member_of_another_type_is_refused(member: str, value: object) -> None:
    with pytest.raises(Malformed):
        reset.unseal(message.seal(Purpose.RESET, KEY, {**asdict(ASKED), member: value}), RING, AGENT, NOW)


def test_answer_and_bytes_belong_together() -> None:
    assert reset.unseal_answer(reset.seal_answer(ANSWERED, KEY), RING, NONCE) == ANSWERED


def test_answer_to_another_reset_is_not_ours() -> None:
    with pytest.raises(Malformed, match="nonce of another reset"):
        reset.unseal_answer(reset.seal_answer(ANSWERED, KEY), RING, OTHER_NONCE)


def test_answer_of_a_stranger_is_refused() -> None:
    with pytest.raises(BadSignature):
        reset.unseal_answer(reset.seal_answer(ANSWERED, FOREIGN_KEY), RING, NONCE)


def test_request_is_no_answer_to_itself() -> None:
    with pytest.raises(BadSignature):
        reset.unseal_answer(reset.seal(ASKED, KEY), RING, NONCE)


def test_answer_without_an_id_is_refused() -> None:
    with pytest.raises(Malformed, match="new_agent_id"):
        reset.unseal_answer(message.seal(Purpose.VERDICT, KEY, {"nonce": NONCE}), RING, NONCE)
