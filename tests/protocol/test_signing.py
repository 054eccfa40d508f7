"""MACs, keys and fingerprints."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from kattila_protocol.signing import Key, Purpose, fingerprint
from protocol.samples import FOREIGN_KEY, KEY, PSK


# RFC 4231, test case 2.
def test_a_mac_is_hmac_sha256() -> None:
    key = Key("", b"", {Purpose.REPORT: b"Jefe"})
    mac = key.sign(Purpose.REPORT, b"what do ya want for nothing?")
    assert mac == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


def test_a_purpose_key_is_derived_from_the_label() -> None:
    derived = hmac.new(PSK, b"kattila/1/report", hashlib.sha256).digest()
    assert KEY.sign(Purpose.REPORT, b"x") == hmac.new(derived, b"x", hashlib.sha256).hexdigest()


def test_each_purpose_has_its_own_key() -> None:
    assert len(set(KEY.purpose_keys.values())) == len(Purpose) == 6


@pytest.mark.parametrize("made_for", Purpose)
@pytest.mark.parametrize("used_for", Purpose)
def test_a_mac_is_valid_only_for_its_purpose(made_for: Purpose, used_for: Purpose) -> None:
    mac = KEY.sign(made_for, b"message")
    assert KEY.matches(used_for, b"message", mac) is (made_for is used_for)


def test_the_mac_of_another_key_does_not_match() -> None:
    assert not KEY.matches(Purpose.REPORT, b"message", FOREIGN_KEY.sign(Purpose.REPORT, b"message"))


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda mac: "",
        lambda mac: mac[:-1],
        lambda mac: mac + "0",
        lambda mac: mac + "\n",
        lambda mac: " " + mac,
        lambda mac: mac[:8],
        lambda mac: "ä" * 64,
        lambda mac: "\ud800" * 64,
        lambda mac: "\u0660" * 64,
    ],
)
def test_a_mac_has_one_spelling(change: object) -> None:
    mac = KEY.sign(Purpose.REPORT, b"message")
    assert callable(change)
    assert not KEY.matches(Purpose.REPORT, b"message", change(mac))


def test_a_fingerprint_is_eight_digits_over_label_and_psk() -> None:
    assert fingerprint(PSK) == hashlib.sha256(b"kattila/1/fingerprint" + PSK).hexdigest()[:8] == KEY.fingerprint


def test_a_fingerprint_is_not_the_plain_hash_of_the_psk() -> None:
    assert not hashlib.sha256(PSK).hexdigest().startswith(fingerprint(PSK))


def test_keys_with_the_same_psk_are_equal() -> None:
    assert Key.from_psk(PSK) == KEY
    assert Key(KEY.fingerprint, b"another psk, same fingerprint", {}) != KEY
