"""Selects the PSK among the TXT records of a DNS answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable

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


def select_psk(records: Iterable[tuple[bytes, ...]], *, without_prefix: Collection[bytes] | None = None) -> bytes:
    """Return the PSK from TXT records, each a tuple of its character-strings (RFC 1035, section 3.3.14).

    Joins the strings of a record without a separator. The value after `kattila=` is the PSK; without such a record the
    only record is. Equal values count once. `without_prefix` are the only PSKs that need no prefix, None means all.

    Raises:
        AmbiguousError: several candidates.
        TxtError: no candidate, not UTF-8, or shorter than 16 bytes without surrounding white space.
    """
    values = _values(records)
    marked = {value.removeprefix(PREFIX).strip() for value in values if value.startswith(PREFIX)}
    if values and not marked and without_prefix is not None and not (values := values.intersection(without_prefix)):
        raise TxtError("no TXT record starts with 'kattila=', as earlier ones did: put it before the PSK")
    return _checked(_only(sorted(marked or values)))


def has_prefix(records: Iterable[tuple[bytes, ...]]) -> bool:
    """Return whether a record starts with `kattila=`."""
    return any(value.startswith(PREFIX) for value in _values(records))


def _values(records: Iterable[tuple[bytes, ...]]) -> set[bytes]:
    return {b"".join(strings).strip() for strings in records}


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
