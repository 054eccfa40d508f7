"""Checks for the scalar members of messages: agent ids, boot ids, nonces and counters."""

from __future__ import annotations

import re

from kattila_protocol.errors import Malformed

# The recipient of a report that goes directly to the manager. No agent id looks like it.
MANAGER = "manager"
# The largest integer that a JSON parser in any language keeps exact (RFC 8259, section 6).
MAX_COUNTER = 2**53 - 1

# The regular expression of a UUID in lower case.
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ID = re.compile(UUID)
_NONCE = re.compile(r"[0-9a-f]{32}")


def is_id(value: object) -> bool:
    """Return whether `value` is an agent id or a boot id: a UUID in lower case (RFC 9562, section 4)."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def checked_id(value: object, name: str) -> str:
    """Return `value` if it is a UUID in lower case; raises Malformed with `name`."""
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        raise Malformed(f"{name} is not a UUID in lower case")
    return value


def checked_nonce(value: object) -> str:
    """Return `value` if it is 32 lower-case hex digits; raises Malformed."""
    if not isinstance(value, str) or _NONCE.fullmatch(value) is None:
        raise Malformed("nonce is not 32 lower-case hex digits")
    return value


def checked_counter(value: object, name: str, *, minimum: int = 0) -> int:
    """Return `value` if it is an integer from `minimum` to 2**53 - 1; raises Malformed with `name`."""
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= MAX_COUNTER:
        raise Malformed(f"{name} is not an integer from {minimum} to 2**53 - 1")
    return value
