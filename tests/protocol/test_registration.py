"""The registration of an agent."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from kattila_protocol import message, registration
from kattila_protocol.errors import BadSignature, Malformed
from kattila_protocol.names import MAX_COUNTER
from kattila_protocol.registration import MAX_HARDWARE_ADDRESSES, Registration
from kattila_protocol.signing import Purpose
from protocol.samples import AGENT, BOOT, FOREIGN_KEY, KEY, NONCE, NOW, OTHER_AGENT, PREVIOUS_KEY, RING

REQUEST = Registration(AGENT, BOOT, "a.example.org", ("00:00:5e:00:53:01",), NONCE, NOW)


def test_seal_and_unseal_are_inverse() -> None:
    body = registration.seal(REQUEST, PREVIOUS_KEY)
    assert body.startswith(b'{"data":{"agent_id":"5f0c7a3e-1b2d-4c8e-9a6f-0123456789ab","boot_id":"9d3b6c21-')
    assert registration.unseal(body, RING) == (REQUEST, PREVIOUS_KEY)


def test_an_unknown_member_is_skipped() -> None:
    body = message.seal(Purpose.REGISTER, KEY, {**asdict(REQUEST), "of": "the future"})
    assert registration.unseal(body, RING)[0] == REQUEST


@pytest.mark.parametrize("to", ["", AGENT, OTHER_AGENT, "Manager", None, 1])
def test_a_registration_to_another_recipient_is_refused(to: object) -> None:
    body = message.seal(Purpose.REGISTER, KEY, {**asdict(REQUEST), "to": to})
    with pytest.raises(BadSignature, match="not addressed to the manager"):
        registration.unseal(body, RING)


def test_a_registration_without_recipient_is_refused() -> None:
    members = {name: value for name, value in asdict(REQUEST).items() if name != "to"}
    with pytest.raises(BadSignature, match="not addressed to the manager"):
        registration.unseal(message.seal(Purpose.REGISTER, KEY, members), RING)


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.REGISTER])
def test_a_message_for_another_purpose_is_refused(purpose: Purpose) -> None:
    with pytest.raises(BadSignature):
        registration.unseal(message.seal(purpose, KEY, REQUEST), RING)


def test_a_registration_under_a_foreign_key_is_refused() -> None:
    with pytest.raises(BadSignature):
        registration.unseal(registration.seal(REQUEST, FOREIGN_KEY), RING)


# The caller checks the clock skew, because it can sign that refusal.
@pytest.mark.parametrize("timestamp", [0, MAX_COUNTER])
def test_unseal_does_not_check_the_clock_skew(timestamp: int) -> None:
    request = replace(REQUEST, timestamp=timestamp)
    assert registration.unseal(registration.seal(request, KEY), RING) == (request, KEY)


@pytest.mark.parametrize("member", ["agent_id", "boot_id", "hostname", "hardware_addresses", "nonce", "timestamp"])
def test_each_member_is_required(member: str) -> None:
    members = {name: value for name, value in asdict(REQUEST).items() if name != member}
    with pytest.raises(Malformed):
        registration.unseal(message.seal(Purpose.REGISTER, KEY, members), RING)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("agent_id", "manager"),
        ("boot_id", None),
        ("hostname", 1),
        ("hardware_addresses", {}),
        ("hardware_addresses", "00:00:5e:00:53:01"),
        ("hardware_addresses", [1]),
        ("hardware_addresses", [None]),
        ("hardware_addresses", [["x"]]),
        ("nonce", NONCE.upper()),
        ("timestamp", -1),
        ("timestamp", str(NOW)),
        ("timestamp", True),
    ],
)
def test_an_invalid_member_is_refused(member: str, value: object) -> None:
    with pytest.raises(Malformed):
        registration.unseal(message.seal(Purpose.REGISTER, KEY, {**asdict(REQUEST), member: value}), RING)


def test_the_number_of_hardware_addresses_is_limited() -> None:
    most = replace(REQUEST, hardware_addresses=("00:00:5e:00:53:01",) * MAX_HARDWARE_ADDRESSES)
    assert registration.unseal(registration.seal(most, KEY), RING)[0] == most
    more = replace(REQUEST, hardware_addresses=("00:00:5e:00:53:01",) * (MAX_HARDWARE_ADDRESSES + 1))
    with pytest.raises(Malformed, match="longer than 1024"):
        registration.unseal(registration.seal(more, KEY), RING)
