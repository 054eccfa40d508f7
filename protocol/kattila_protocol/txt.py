"""TXT answer to PSK: the selection rule.

May live here: which record of an answer holds the PSK. Not here: asking a resolver (kattila_keys).
"""

from __future__ import annotations

from collections.abc import Iterable

from kattila_protocol.signing import fingerprint

PREFIX = b"kattila="
# 16 bytes are the least that resists guessing when they are random.
MIN_PSK_BYTES = 16


class TxtError(ValueError):
    """The answer holds no usable PSK; the text says what to change in the zone, never a value."""


def select_psk(records: Iterable[tuple[bytes, ...]]) -> bytes:
    """Choose the PSK among the TXT records at the name, each a tuple of its character-strings (RFC 1035, 3.3.14).

    The strings of a record are joined without a space. The record that starts with `kattila=` wins (the value is
    what follows), else the only one. Records of equal value count once.

    Raises:
        TxtError: none, several candidates, not UTF-8, or shorter than 16 bytes after trimming.
    """
    values = {b"".join(strings).strip() for strings in records}
    marked = {value.removeprefix(PREFIX).strip() for value in values if value.startswith(PREFIX)}
    return _checked(_only(sorted(marked or values)))


def _only(candidates: list[bytes]) -> bytes:
    if not candidates:
        raise TxtError("the answer holds no TXT record; add one with the PSK")
    if len(candidates) > 1:
        names = ", ".join(fingerprint(value) for value in candidates)
        raise TxtError(
            f"{len(candidates)} TXT records could be the PSK (fingerprints {names}); "
            "start the right one with 'kattila=' or remove the others"
        )
    return candidates[0]


def _checked(psk: bytes) -> bytes:
    if len(psk) < MIN_PSK_BYTES:
        raise TxtError(f"the PSK has {len(psk)} bytes; it needs at least {MIN_PSK_BYTES}")
    try:
        psk.decode()
    except UnicodeDecodeError:
        # Not chained: the codec's error carries the value.
        raise TxtError("the PSK is not UTF-8; publish it as plain text") from None
    return psk
