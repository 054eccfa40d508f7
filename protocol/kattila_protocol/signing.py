"""Signs and verifies with keys that are derived from the PSK, one for each purpose, and names a PSK by fingerprint."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from enum import StrEnum

_LABEL = b"kattila/1/"
_MAC = re.compile(r"[0-9a-f]{64}")


class Purpose(StrEnum):
    """What a MAC signs. A MAC for one purpose is invalid for any other."""

    REPORT = "report"
    HOP = "hop"
    VERDICT = "verdict"
    REGISTER = "register"
    PEER = "peer"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Key:
    """A PSK and the keys derived from it; its representation shows only the fingerprint.

    `fingerprint` is the first 8 hex digits of SHA-256 over "kattila/1/fingerprint" and the PSK. Each of the
    `purpose_keys` is HMAC-SHA256(PSK, "kattila/1/PURPOSE"), 32 bytes.
    """

    fingerprint: str
    psk: bytes = field(repr=False)
    purpose_keys: dict[Purpose, bytes] = field(repr=False, compare=False)

    @classmethod
    def from_psk(cls, psk: bytes) -> Key:
        """Derive the keys of all purposes from a PSK."""
        purpose_keys = {purpose: hmac.digest(psk, _LABEL + purpose.encode(), "sha256") for purpose in Purpose}
        return cls(fingerprint(psk), psk, purpose_keys)

    def sign(self, purpose: Purpose, message: bytes) -> str:
        """Return the MAC of `message`: HMAC-SHA256 (RFC 2104) as 64 lower-case hex digits."""
        return hmac.digest(self.purpose_keys[purpose], message, "sha256").hex()

    def matches(self, purpose: Purpose, message: bytes, mac: str) -> bool:
        """Return, in constant time, whether this key made `mac` for `purpose`."""
        return _MAC.fullmatch(mac) is not None and hmac.compare_digest(self.sign(purpose, message), mac)


def fingerprint(psk: bytes) -> str:
    """Return the 8 hex digits that name a PSK without revealing it."""
    return hashlib.sha256(_LABEL + b"fingerprint" + psk).hexdigest()[:8]
