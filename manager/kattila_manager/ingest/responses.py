"""The manager's HTTP responses: JSON and problem documents."""

from __future__ import annotations

from dataclasses import dataclass

from kattila_protocol import canonical
from kattila_protocol.errors import Refusal

JSON_HEADERS = (("content-type", "application/json"),)
_PROBLEM = "application/problem+json"
# Sent with every 503 that names no other time.
_RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def as_json(status: int, value: object) -> Response:
    """Return a JSON document."""
    return Response(status, JSON_HEADERS, canonical.encode(value))


def problem(refusal: Refusal) -> Response:
    """Return an unsigned problem document (RFC 9457)."""
    return Response(refusal.status, problem_headers(refusal), canonical.encode(refusal.members))


def problem_headers(refusal: Refusal) -> tuple[tuple[str, str], ...]:
    """Return the headers of a problem document for this refusal."""
    headers = [("content-type", _PROBLEM)]
    if refusal.status == 401:
        # Makes a browser prompt for the token, as the password of any user name (RFC 7617).
        headers.append(("www-authenticate", 'Basic realm="kattila", charset="UTF-8"'))
    if refusal.status == 503:
        headers.append(("retry-after", str(refusal.retry_after_seconds or _RETRY_AFTER_SECONDS)))
    return tuple(headers)
