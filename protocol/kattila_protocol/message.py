"""The shape of every signed message except a report: {"data":DATA,"hmac":"<64 hex digits>"}.

Registrations, resets, peer answers and verdicts share it. In a problem document (RFC 9457) other members precede these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kattila_protocol import canonical
from kattila_protocol.errors import Malformed, TooLarge, WrongContentType
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose

# A registration has the hardware addresses of all interfaces, a peer's answer its interfaces and routes.
MAX_MESSAGE_BYTES = 256 * 1024

_TAIL = re.compile(rb',"hmac":"([0-9a-f]{64})"\}\Z')
_TAIL_BYTES = 75
# A JSON string cannot contain an unescaped quote, so the first match is the member.
_MEMBER = b'"data":'


def check_content_type(content_type: str) -> None:
    """Raise WrongContentType unless a request's content type is JSON, in any case and with any parameters."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise WrongContentType(f"the content type is {content_type[:80]!r}")


def seal(purpose: Purpose, key: Key, data: object, *, problem: Mapping[str, object] | None = None) -> bytes:
    """Return a message with `data` encoded and signed for one purpose, after the unsigned members of `problem`."""
    signed = canonical.encode(data)
    head = canonical.encode(problem)[:-1] + b"," if problem else b"{"
    return head + _MEMBER + signed + b',"hmac":"' + key.sign(purpose, signed).encode() + b'"}'


def unseal(purpose: Purpose, ring: Ring, body: bytes) -> tuple[dict[str, Any], Key]:
    """Return the members that were signed, and the key that signed them.

    Raises:
        TooLarge: over 256 KiB.
        Malformed: another shape, or the signed object is not strict JSON.
        NoKey, BadSignature: see `Ring.verify`.
    """
    if len(body) > MAX_MESSAGE_BYTES:
        raise TooLarge(f"the body has {len(body)} bytes; the limit is {MAX_MESSAGE_BYTES}")
    tail = _TAIL.search(body, max(0, len(body) - _TAIL_BYTES))
    start = body.find(_MEMBER)
    # Members before DATA are unsigned. A verdict may have them, as a problem document; a request may not.
    is_first = start == 1 or (purpose is Purpose.VERDICT and body[max(0, start - 1) : start] == b",")
    if tail is None or not is_first or not body.startswith(b"{"):
        raise Malformed('the body is not {"data":{…},"hmac":"…"} without white space between the members')
    data = body[start + len(_MEMBER) : tail.start()]
    key = ring.verify(purpose, data, tail.group(1).decode("ascii"))
    return canonical.parse_object(data), key
