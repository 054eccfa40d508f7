"""The notation of addresses that all readers use, and the public key of a private one."""

from __future__ import annotations

import base64
import hashlib
import shutil

import pytest

from kattila_agent.collectors.wireguard import curve25519, notation
from support.wireguard import wg


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("192.0.2.1:1", "192.0.2.1:1"),
        ("[2001:DB8:0:0::1]:51820", "[2001:db8::1]:51820"),
        ("[::ffff:192.0.2.1]:5", "[::ffff:192.0.2.1]:5"),
        ("[::ffff:c000:201]:5", "[::ffff:192.0.2.1]:5"),
        ("[fe80::1%eth0]:5", "[fe80::1%eth0]:5"),
        ("[fe80::1%12]:5", "[fe80::1%if12]:5"),
        ("[fe80::1%a]:b]:5", "[fe80::1%a]:b]:5"),
        ("[fe80::1%w\u2003g]:5", "[fe80::1%w\u2003g]:5"),
    ],
)
def test_endpoints_have_one_notation(given: str, expected: str) -> None:
    assert notation.parse_endpoint(given, lambda index: f"if{index}") == expected


def test_a_public_key_is_that_of_the_rfc_and_of_wg() -> None:
    # RFC 7748, section 5.2: the first iteration, whose scalar and u are both 9.
    nine = (9).to_bytes(32, "little")
    assert curve25519.public_key(nine).hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    if shutil.which("wg") is None:
        pytest.skip("wg is not installed, so only the vector of the RFC was compared")
    for number in range(20):
        private = bytes([number * 13]) * 16 + hashlib.sha256(bytes([number])).digest()[:16]
        assert text(curve25519.public_key(private)) == wg("pubkey", stdin=text(private)).strip()


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()
