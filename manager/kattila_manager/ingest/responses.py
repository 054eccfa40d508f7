"""What a request is answered with: verdicts, signed refusals, problem documents.

May live here: values to status, headers and bytes. Not here: what is answered (intake, app).
"""

from __future__ import annotations

from dataclasses import dataclass

from kattila_protocol import canonical, verdict
from kattila_protocol.errors import Refusal
from kattila_protocol.signing import Key
from kattila_protocol.verdict import Verdict

_JSON = "application/json"
_PROBLEM = "application/problem+json"
# Whoever is refused for now is told when to come again, by whatever it was refused.
_RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def as_json(status: int, value: object) -> Response:
    """Response with a JSON document."""
    return Response(status, (("content-type", _JSON),), canonical.encode(value))


def signed(given: Verdict, key: Key) -> Response:
    """Response with a verdict that is no refusal."""
    return Response(200, (("content-type", _JSON),), verdict.seal(given, key))


def refused(refusal: Refusal, given: Verdict, key: Key) -> Response:
    """Response with a refusal of an authentic message: a problem document that carries the signed verdict."""
    return Response(refusal.status, _problem_headers(refusal), verdict.seal(given, key, refusal))


def problem(refusal: Refusal) -> Response:
    """Response with an unsigned problem document (RFC 9457)."""
    return Response(refusal.status, _problem_headers(refusal), canonical.encode(refusal.members))


def _problem_headers(refusal: Refusal) -> tuple[tuple[str, str], ...]:
    headers = [("content-type", _PROBLEM)]
    if refusal.status == 401:
        # Makes a browser ask for the token, as the password of any user (RFC 7617).
        headers.append(("www-authenticate", 'Basic realm="kattila", charset="UTF-8"'))
    if refusal.status == 503:
        headers.append(("retry-after", str(refusal.retry_after_seconds or _RETRY_AFTER_SECONDS)))
    return tuple(headers)
