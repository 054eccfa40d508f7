"""First contact."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from kattila_protocol import message, registration
from kattila_protocol.errors import BadSignature, Malformed
from kattila_protocol.names import MAX_COUNTER
from kattila_protocol.registration import MAX_HARDWARE_ADDRESSES, Registration
from kattila_protocol.signing import Purpose
from protocol.samples import AGENT, BOOT, FOREIGN_KEY, KEY, NONCE, NOW, OTHER_AGENT, PREVIOUS_KEY, RING

ASKED = Registration(AGENT, BOOT, "a.example.org", ("00:00:5e:00:53:01",), NONCE, NOW)


def test_value_and_bytes_belong_together() -> None:
    body = registration.seal(ASKED, PREVIOUS_KEY)
    assert body.startswith(b'{"data":{"agent_id":"5f0c7a3e-1b2d-4c8e-9a6f-0123456789ab","boot_id":"9d3b6c21-')
    assert registration.unseal(body, RING) == (ASKED, PREVIOUS_KEY)


def test_unknown_member_is_skipped() -> None:
    body = message.seal(Purpose.REGISTER, KEY, {**asdict(ASKED), "of": "the future"})
    assert registration.unseal(body, RING)[0] == ASKED


@pytest.mark.parametrize("to", ["", AGENT, OTHER_AGENT, "Manager", None, 1])
def test_registration_for_somebody_else_is_refused(to: object) -> None:
    body = message.seal(Purpose.REGISTER, KEY, {**asdict(ASKED), "to": to})
    with pytest.raises(BadSignature, match="not addressed to the manager"):
        registration.unseal(body, RING)


def test_registration_for_nobody_is_refused() -> None:
    members = {name: value for name, value in asdict(ASKED).items() if name != "to"}
    with pytest.raises(BadSignature, match="not addressed to the manager"):
        registration.unseal(message.seal(Purpose.REGISTER, KEY, members), RING)


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.REGISTER])
def test_registration_made_for_another_purpose_is_refused(purpose: Purpose) -> None:
    with pytest.raises(BadSignature):
        registration.unseal(message.seal(purpose, KEY, ASKED), RING)


def test_registration_of_a_stranger_is_refused() -> None:
    with pytest.raises(BadSignature):
        registration.unseal(registration.seal(ASKED, FOREIGN_KEY), RING)


# Who reads it checks its time, so that the refusal of an authentic one can be signed.
@pytest.mark.parametrize("timestamp", [0, MAX_COUNTER])
def test_registration_of_any_time_is_read(timestamp: int) -> None:
    asked = replace(ASKED, timestamp=timestamp)
    assert registration.unseal(registration.seal(asked, KEY), RING) == (asked, KEY)


@pytest.mark.parametrize("member", ["agent_id", "boot_id", "hostname", "hardware_addresses", "nonce", "timestamp"])
def test_each_member_is_needed(member: str) -> None:
    members = {name: value for name, value in asdict(ASKED).items() if name != member}
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
def test_member_of_another_type_is_refused(member: str, value: object) -> None:
    with pytest.raises(Malformed):
        registration.unseal(message.seal(Purpose.REGISTER, KEY, {**asdict(ASKED), member: value}), RING)


def test_hardware_addresses_are_bounded() -> None:
    most = replace(ASKED, hardware_addresses=("00:00:5e:00:53:01",) * MAX_HARDWARE_ADDRESSES)
    assert registration.unseal(registration.seal(most, KEY), RING)[0] == most
    more = replace(ASKED, hardware_addresses=("00:00:5e:00:53:01",) * (MAX_HARDWARE_ADDRESSES + 1))
    with pytest.raises(Malformed, match="more than 1024"):
        registration.unseal(registration.seal(more, KEY), RING)
