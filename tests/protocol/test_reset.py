"""The request that resets an agent, and its answer."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from kattila_protocol import message, reset
from kattila_protocol.errors import BadSignature, ClockSkew, Malformed
from kattila_protocol.reset import Reset, ResetAnswer
from kattila_protocol.signing import Purpose
from protocol.samples import AGENT, FOREIGN_KEY, KEY, NONCE, NOW, OTHER_AGENT, OTHER_NONCE, RING

REQUEST = Reset(AGENT, NONCE, NOW)
ANSWER = ResetAnswer(OTHER_AGENT, NONCE)


def test_seal_and_unseal_are_inverse() -> None:
    body = reset.seal(REQUEST, KEY)
    assert body.startswith(b'{"data":{"agent_id":"5f0c7a3e-1b2d-4c8e-9a6f-0123456789ab","nonce":"0011')
    assert reset.unseal(body, RING, AGENT, NOW) == (REQUEST, KEY)


# A reset ends the id that it names, so no agent accepts the same request again.
def test_a_reset_cannot_be_repeated() -> None:
    with pytest.raises(BadSignature, match="addressed to another id"):
        reset.unseal(reset.seal(REQUEST, KEY), RING, OTHER_AGENT, NOW)


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.RESET])
def test_a_message_for_another_purpose_is_refused(purpose: Purpose) -> None:
    with pytest.raises(BadSignature):
        reset.unseal(message.seal(purpose, KEY, REQUEST), RING, AGENT, NOW)


def test_a_reset_under_a_foreign_key_is_refused() -> None:
    with pytest.raises(BadSignature):
        reset.unseal(reset.seal(REQUEST, FOREIGN_KEY), RING, AGENT, NOW)


@pytest.mark.parametrize("offset", [600_001, -600_001])
def test_a_reset_with_a_skewed_clock_is_refused(offset: int) -> None:
    with pytest.raises(ClockSkew):
        reset.unseal(reset.seal(REQUEST, KEY), RING, AGENT, NOW + offset)


@pytest.mark.parametrize(
    ("member", "value"),
    [("agent_id", None), ("agent_id", "manager"), ("nonce", "x"), ("timestamp", None), ("timestamp", -1)],
)
def test_an_invalid_member_is_refused(member: str, value: object) -> None:
    with pytest.raises(Malformed):
        reset.unseal(message.seal(Purpose.RESET, KEY, {**asdict(REQUEST), member: value}), RING, AGENT, NOW)


def test_seal_and_unseal_an_answer_are_inverse() -> None:
    assert reset.unseal_answer(reset.seal_answer(ANSWER, KEY), RING, NONCE) == ANSWER


def test_an_answer_to_another_reset_is_refused() -> None:
    with pytest.raises(Malformed, match="nonce of another reset"):
        reset.unseal_answer(reset.seal_answer(ANSWER, KEY), RING, OTHER_NONCE)


def test_an_answer_under_a_foreign_key_is_refused() -> None:
    with pytest.raises(BadSignature):
        reset.unseal_answer(reset.seal_answer(ANSWER, FOREIGN_KEY), RING, NONCE)


def test_a_request_is_not_accepted_as_its_answer() -> None:
    with pytest.raises(BadSignature):
        reset.unseal_answer(reset.seal(REQUEST, KEY), RING, NONCE)


def test_an_answer_without_id_is_refused() -> None:
    with pytest.raises(Malformed, match="new_agent_id"):
        reset.unseal_answer(message.seal(Purpose.VERDICT, KEY, {"nonce": NONCE}), RING, NONCE)
