"""Selects the PSK among the TXT records of a DNS answer."""

from __future__ import annotations

from collections.abc import Iterable

from kattila_protocol.signing import fingerprint

PREFIX = b"kattila="
# 16 random bytes resist guessing.
MIN_PSK_BYTES = 16


class TxtError(ValueError):
    """The DNS answer has no usable PSK. The text says what to change in the zone, and never quotes a record."""


class AmbiguousError(TxtError):
    """Several TXT records could be the PSK; `fingerprints` are those of their values."""

    def __init__(self, text: str, fingerprints: tuple[str, ...]) -> None:
        """Take the text, and the fingerprints."""
        super().__init__(text)
        self.fingerprints = fingerprints


def select_psk(records: Iterable[tuple[bytes, ...]]) -> bytes:
    """Return the PSK from TXT records, each a tuple of its character-strings (RFC 1035, section 3.3.14).

    Joins the strings of a record without a separator. The value after `kattila=` is the PSK; without such a record the
    only record is. Equal values count once.

    Raises:
        AmbiguousError: several candidates.
        TxtError: no candidate, not UTF-8, or shorter than 16 bytes without surrounding white space.
    """
    values = {b"".join(strings).strip() for strings in records}
    marked = {value.removeprefix(PREFIX).strip() for value in values if value.startswith(PREFIX)}
    return _checked(_only(sorted(marked or values)))


def _only(candidates: list[bytes]) -> bytes:
    if not candidates:
        raise TxtError("the answer has no TXT record: add one with the PSK")
    if len(candidates) > 1:
        fingerprints = tuple(fingerprint(value) for value in candidates)
        raise AmbiguousError(
            f"{len(candidates)} TXT records could be the PSK (fingerprints {', '.join(fingerprints)}): "
            "start the right one with 'kattila=' or remove the others",
            fingerprints,
        )
    return candidates[0]


def _checked(psk: bytes) -> bytes:
    if len(psk) < MIN_PSK_BYTES:
        raise TxtError(f"the PSK has {len(psk)} bytes: it needs at least {MIN_PSK_BYTES}")
    try:
        psk.decode()
    except UnicodeDecodeError:
        # Not chained: the codec's error holds the value.
        raise TxtError("the PSK is not UTF-8: publish it as plain text") from None
    return psk
