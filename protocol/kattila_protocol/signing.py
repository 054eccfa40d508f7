"""Sign and verify: one key per purpose, and the fingerprint under which a PSK is spoken of.

May live here: everything that touches the PSK's bytes. Not here: which bytes are signed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from enum import StrEnum

_LABEL = b"kattila/1/"
_MAC = re.compile(r"[0-9a-f]{64}")


class Purpose(StrEnum):
    """What a MAC is made for; one made for another purpose is worth nothing."""

    REPORT = "report"
    HOP = "hop"
    VERDICT = "verdict"
    REGISTER = "register"
    PEER = "peer"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Key:
    """A PSK and what derives from it. Its representation shows the fingerprint alone.

    `fingerprint` is the first 8 hex digits of SHA-256 over "kattila/1/fingerprint" and the PSK, `purpose_keys`
    hold HMAC-SHA256(PSK, "kattila/1/PURPOSE"), 32 bytes each.
    """

    fingerprint: str
    psk: bytes = field(repr=False)
    purpose_keys: dict[Purpose, bytes] = field(repr=False, compare=False)

    @classmethod
    def from_psk(cls, psk: bytes) -> Key:
        """Derive the keys of all purposes."""
        purpose_keys = {purpose: _hmac(psk, _LABEL + purpose.encode()) for purpose in Purpose}
        return cls(fingerprint(psk), psk, purpose_keys)

    def sign(self, purpose: Purpose, message: bytes) -> str:
        """Return the MAC over `message` as 64 lower-case hex digits."""
        return _hmac(self.purpose_keys[purpose], message).hex()

    def made(self, purpose: Purpose, message: bytes, mac: str) -> bool:
        """Tell, in constant time, whether this key made `mac` for `purpose`."""
        return _MAC.fullmatch(mac) is not None and hmac.compare_digest(self.sign(purpose, message), mac)


def fingerprint(psk: bytes) -> str:
    """Name a PSK without telling it: 8 hex digits."""
    return hashlib.sha256(_LABEL + b"fingerprint" + psk).hexdigest()[:8]


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
