"""Calls a WSGI application without a server (PEP 3333)."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True)
class Answer:
    """A response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def call(
    app: Callable[..., Any],
    method: str,
    path: str,
    source: str,
    body: bytes = b"",
    *,
    parameters: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Return the response of an application; `source` is the client's address."""
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": urlencode(parameters or {}),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "5087",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": source,
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in (headers or {}).items()},
    }
    started: list[tuple[str, list[tuple[str, str]]]] = []
    parts = app(environ, lambda status, fields, _error=None: started.append((status, fields)))
    content = b"".join(parts)
    status, fields = started[-1]
    return Answer(int(status.split()[0]), {name.lower(): value for name, value in fields}, content)
