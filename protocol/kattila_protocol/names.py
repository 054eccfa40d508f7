"""The shapes of the names that travel: agent ids, boot ids, nonces.

May live here: what a well-formed name looks like. Not here: making one (chance is an argument).
"""

from __future__ import annotations

import re

from kattila_protocol.errors import Malformed

# The recipient of a report that goes straight to the manager; no agent id has this shape.
MANAGER = "manager"
# Integers that a JSON reader in any language holds exactly (RFC 8259, section 6).
MAX_COUNTER = 2**53 - 1

# A UUID in lower case, as a regular expression.
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ID = re.compile(UUID)
_NONCE = re.compile(r"[0-9a-f]{32}")


def is_id(text: object) -> bool:
    """Tell whether `text` is an agent id or a boot id: a UUID in lower case (RFC 9562, section 4)."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def checked_id(value: object, what: str) -> str:
    """Return `value` if it is a UUID in lower case, else raise Malformed naming `what`."""
    if not isinstance(value, str) or not is_id(value):
        raise Malformed(f"{what} is not a UUID in lower case")
    return value


def checked_nonce(value: object) -> str:
    """Return `value` if it is 32 lower-case hex digits, else raise Malformed."""
    if not isinstance(value, str) or _NONCE.fullmatch(value) is None:
        raise Malformed("nonce is not 32 lower-case hex digits")
    return value


def checked_counter(value: object, what: str, *, least: int = 0) -> int:
    """Return `value` if it is an integer from `least` to 2**53 - 1, else raise Malformed naming `what`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_COUNTER:
        raise Malformed(f"{what} is not an integer from {least} to 2**53 - 1")
    return value
