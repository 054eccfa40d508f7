"""The manager's signed verdict on a report or a registration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kattila_protocol import message, verdict
from kattila_protocol.errors import BadSignature, Malformed, Refusal, Replay
from kattila_protocol.signing import Purpose
from kattila_protocol.verdict import ACCEPTED, DUPLICATE, Disposition, Verdict
from protocol.samples import AGENT, FOREIGN_KEY, KEY, KINDS, NONCE, NOW, OTHER_NONCE, PREVIOUS_KEY, RING

VERDICT = Verdict(ACCEPTED, AGENT, NONCE, NOW, clock_offset=-250, highest_tick=1041, highest_sample=41)
MEMBERS: dict[str, Any] = {
    "outcome": ACCEPTED,
    "agent_id": AGENT,
    "nonce": NONCE,
    "manager_time": NOW,
    "clock_offset": -250,
    "highest_tick": 1041,
    "highest_sample": 41,
    "detail": "",
}
REFUSALS = [kind("wrong") for kind in KINDS]


def test_seal_and_unseal_are_inverse() -> None:
    body = verdict.seal(VERDICT, KEY)
    assert list(json.loads(body)["data"].items()) == list(MEMBERS.items())
    assert verdict.unseal(body, RING, NONCE) == VERDICT


def test_a_verdict_under_a_previous_key_is_accepted() -> None:
    assert verdict.unseal(verdict.seal(VERDICT, PREVIOUS_KEY), RING, NONCE) == VERDICT


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.kind)
def test_a_refusal_is_a_problem_document_with_the_verdict(refusal: Refusal) -> None:
    refused = Verdict(refusal.kind, AGENT, NONCE, NOW, 0, detail=refusal.detail)
    body = verdict.seal(refused, KEY, refusal)
    document = json.loads(body)
    assert list(document) == ["type", "title", "status", "detail", "data", "hmac"]
    assert document["status"] == refusal.status
    assert verdict.unseal(body, RING, NONCE) == refused


@pytest.mark.parametrize("outcome", [ACCEPTED, DUPLICATE])
def test_an_accepted_sample_is_delivered(outcome: str) -> None:
    assert Verdict(outcome, AGENT, NONCE, NOW, 0).disposition is Disposition.DELIVERED


def test_a_malformed_sample_is_dropped() -> None:
    assert Verdict("malformed", AGENT, NONCE, NOW, 0).disposition is Disposition.DROPPED


@pytest.mark.parametrize(
    "outcome",
    ["", "Accepted", "accepted ", "of the future", *sorted(kind.kind for kind in REFUSALS if kind.kind != "malformed")],
)
def test_a_sample_with_any_other_outcome_is_kept(outcome: str) -> None:
    assert Verdict(outcome, AGENT, NONCE, NOW, 0).disposition is Disposition.KEPT


def test_a_verdict_on_another_message_is_refused() -> None:
    with pytest.raises(Malformed, match="nonce of another message"):
        verdict.unseal(verdict.seal(VERDICT, KEY), RING, OTHER_NONCE)


def test_a_verdict_under_a_foreign_key_is_refused() -> None:
    with pytest.raises(BadSignature):
        verdict.unseal(verdict.seal(VERDICT, FOREIGN_KEY), RING, NONCE)


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.VERDICT])
def test_a_message_for_another_purpose_is_refused(purpose: Purpose) -> None:
    with pytest.raises(BadSignature):
        verdict.unseal(message.seal(purpose, KEY, VERDICT), RING, NONCE)


@pytest.mark.parametrize("bit", range(8))
def test_a_change_of_any_bit_of_an_acceptance_is_refused(bit: int) -> None:
    body = verdict.seal(VERDICT, KEY)
    for place in range(len(body)):
        changed = bytearray(body)
        changed[place] ^= 1 << bit
        with pytest.raises((BadSignature, Malformed)):
            verdict.unseal(bytes(changed), RING, NONCE)


def test_a_refusal_cannot_be_turned_into_an_acceptance() -> None:
    refused = verdict.seal(Verdict("replay", AGENT, NONCE, NOW, 0), KEY, Replay("used"))
    for old, new in (
        (b'"outcome":"replay"', b'"outcome":"accepted"'),
        (b'"data":', b'"data":{"outcome":"accepted"},"data":'),
    ):
        with pytest.raises((BadSignature, Malformed)):
            verdict.unseal(refused.replace(old, new), RING, NONCE)


@pytest.mark.parametrize(
    "front",
    [
        b'{"status":200,',
        b'{"outcome":"accepted",',
        b'{"type":"urn:kattila:problem:malformed","status":400,',
    ],
)
def test_unsigned_members_do_not_change_the_verdict(front: bytes) -> None:
    refused = verdict.seal(Verdict("replay", AGENT, NONCE, NOW, 0), KEY)
    assert verdict.unseal(front + refused[1:], RING, NONCE).outcome == "replay"


@pytest.mark.parametrize("member", ["highest_tick", "highest_sample", "detail"])
def test_a_member_with_a_default_may_be_absent(member: str) -> None:
    members = {name: value for name, value in MEMBERS.items() if name != member}
    received = verdict.unseal(message.seal(Purpose.VERDICT, KEY, members), RING, NONCE)
    assert getattr(received, member) in (0, "")


def test_an_unknown_member_is_skipped() -> None:
    assert verdict.unseal(message.seal(Purpose.VERDICT, KEY, {**MEMBERS, "of": "the future"}), RING, NONCE) == VERDICT


@pytest.mark.parametrize("member", ["outcome", "agent_id", "nonce", "manager_time", "clock_offset"])
def test_a_member_without_default_is_required(member: str) -> None:
    members = {name: value for name, value in MEMBERS.items() if name != member}
    with pytest.raises(Malformed):
        verdict.unseal(message.seal(Purpose.VERDICT, KEY, members), RING, NONCE)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("outcome", 1),
        ("outcome", None),
        ("agent_id", "manager"),
        ("nonce", ""),
        ("manager_time", -1),
        ("manager_time", "1"),
        ("clock_offset", True),
        ("clock_offset", "0"),
        ("clock_offset", None),
        ("highest_tick", -1),
        ("highest_tick", 2**53),
        ("highest_sample", None),
        ("detail", None),
    ],
)
def test_an_invalid_member_is_refused(member: str, value: object) -> None:
    with pytest.raises(Malformed):
        verdict.unseal(message.seal(Purpose.VERDICT, KEY, {**MEMBERS, member: value}), RING, NONCE)
