"""Calls a WSGI application (PEP 3333) for an RSGI request whose body is already read."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from kattila_manager.ingest.responses import Response

_Start = Callable[..., object]
WsgiApp = Callable[[dict[str, Any], _Start], Iterable[bytes]]


def call(app: WsgiApp, scope: Any, body: bytes) -> Response:
    """Return the application's whole response to one request."""
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], _exc_info: object = None) -> None:
        started.append((status, headers))

    chunks = app(environ(scope, body), start_response)
    try:
        content = b"".join(chunks)
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    status, headers = started[-1]
    return Response(int(status.split(" ", 1)[0]), tuple((name.lower(), value) for name, value in headers), content)


def environ(scope: Any, body: bytes) -> dict[str, Any]:
    """Return the WSGI environment of a request."""
    host, _, port = scope.client.rpartition(":")
    values: dict[str, Any] = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope.path).decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": scope.headers.get("content-type") or "",
        "REMOTE_ADDR": host.strip("[]"),
        "REMOTE_PORT": port,
        "SERVER_NAME": "kattila",
        "SERVER_PORT": "0",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope.headers.items():
        if name not in ("content-type", "content-length"):
            values["HTTP_" + name.upper().replace("-", "_")] = value
    return values
