"""HTTP to one server, bounded in time and size whatever the server does.

May live here: a request and its time, and what a failure is called. Not here: sockets and names (transport, resolving),
what is sent and what an answer means.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3

from kattila_agent.outbound.resolver import Resolver
from kattila_agent.outbound.transport import Request, Sockets, session_over
from kattila_protocol.message import MAX_MESSAGE_BYTES
from kattila_settings.values import ALL_ADDRESSES, Listen

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
# From the first byte sent to the last one read; a server that drips its answer is cut off.
TOTAL_SECONDS = 15.0

# One for all connections of this program: what one has learned, others need not ask.
SYSTEM = Resolver()

_Answer = TypeVar("_Answer")


class UnreachableError(Exception):
    """No whole answer came back; the text says why, without what varies from one attempt to the next."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a GET brought: the status, what the server calls itself (empty: nothing), and the body."""

    status: int
    server: str
    body: bytes


class Reply(NamedTuple):
    """What a POST brought: the status, the body, and after how many seconds another is welcome (None: not said)."""

    status: int
    body: bytes
    retry_after_seconds: int | None = None


class Connection:
    """Keep-alive HTTP to one server, without proxies, redirects, cookies or compression. For one thread.

    A request takes `total_seconds` at most. Only resolving a name, for RESOLVE_SECONDS, and then trying each of its
    addresses for `connect_seconds`, may go beyond that.
    """

    def __init__(
        self,
        url: str,
        *,
        total_seconds: float = TOTAL_SECONDS,
        connect_seconds: float = CONNECT_SECONDS,
        resolver: Resolver = SYSTEM,
    ) -> None:
        """Take the server's URL, to which paths are appended. Opens nothing yet."""
        self._url = url
        self._total_seconds = total_seconds
        self._connect_seconds = connect_seconds
        self._sockets = Sockets()
        self._session = session_over(self._sockets, resolver, url)
        self._named_address = _named_address(url)

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None, *, total_seconds: float | None = None
    ) -> Reply:
        """Post JSON and return the answer; `total_seconds` is for this request alone.

        Raises:
            UnreachableError: no connection, no answer in time, or one over 256 KiB.
        """
        given = {"data": body, "headers": headers}
        return self._in_time(lambda request: self._post_again_if_closed(path, given, request), total_seconds)

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Page:
        """Get a page; raises UnreachableError as `post` does."""
        return self._in_time(lambda request: self._get(path, parameters, request), None)

    @property
    def address(self) -> str | None:
        """The IP address of the newest connection, or of the URL if it names one; None before a name was resolved."""
        return self._sockets.address or self._named_address

    def close(self) -> None:
        """Close what is open; the next request opens it again."""
        self._session.close()

    def _in_time(self, ask: Callable[[Request], _Answer], total_seconds: float | None) -> _Answer:
        request = Request(self._total_seconds if total_seconds is None else total_seconds)
        with self._sockets.cut_off_in_time(request):
            outcome = _outcome(ask, request)
        if request.is_cut_off:
            # An answer that was cut off in its first lines looks like an empty one.
            raise UnreachableError(f"no whole answer within {request.total_seconds:g} s")
        if isinstance(outcome, _Failure):
            raise UnreachableError(outcome.reason)
        return outcome

    def _post_again_if_closed(self, path: str, given: Mapping[str, Any], request: Request) -> Reply:
        kept_alive = bool(self._sockets)
        try:
            return self._post(path, given, request)
        except requests.ConnectionError:
            # A server may close a kept connection at any moment. The same body again is a duplicate at worst.
            if not kept_alive or request.is_cut_off:
                raise
            self._session.close()
        return self._post(path, given, request)

    def _post(self, path: str, given: Mapping[str, Any], request: Request) -> Reply:
        with self._session.post(self._url + path, **given, **self._bounds(request)) as response:
            retry_after = response.headers.get("Retry-After", "")
            # The other form of RFC 9110, section 10.2.3, is a date, which our servers do not send.
            seconds = int(retry_after) if re.fullmatch(r"[0-9]{1,6}", retry_after) else None
            return Reply(response.status_code, _read_bounded(response), seconds)

    def _get(self, path: str, parameters: Mapping[str, str] | None, request: Request) -> Page:
        with self._session.get(self._url + path, params=parameters, **self._bounds(request)) as response:
            return Page(response.status_code, response.headers.get("Server", ""), _read_bounded(response))

    def _bounds(self, request: Request) -> dict[str, Any]:
        timeout = min(self._connect_seconds, request.total_seconds), READ_SECONDS
        return {"timeout": timeout, "allow_redirects": False, "stream": True}


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why there is no answer. Not the error itself: that would keep open what its frames hold."""

    reason: str


def _outcome(ask: Callable[[Request], _Answer], request: Request) -> _Answer | _Failure:
    try:
        return ask(request)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        return _Failure(_reason(error))
    except ValueError:
        # What the libraries below say of lines that they cannot read.
        return _Failure("its answer is no HTTP")


class Connections:
    """A few connections to one server, for several threads; each request takes one that is idle, or a new one."""

    def __init__(self, url: str) -> None:
        """Take the server's URL. Opens nothing yet."""
        self._url = url
        self._idle: SimpleQueue[Connection] = SimpleQueue()

    def post(self, path: str, body: bytes, total_seconds: float) -> Reply:
        """Post as a Connection does."""
        try:
            connection = self._idle.get_nowait()
        except Empty:
            connection = Connection(self._url)
        try:
            return connection.post(path, body, total_seconds=total_seconds)
        finally:
            self._idle.put(connection)


def in_url(listen: Listen) -> str:
    """Return where to reach from this machine what listens there, as a URL writes it."""
    host = "127.0.0.1" if listen.host == ALL_ADDRESSES else listen.host
    return f"[{host}]:{listen.port}" if ":" in host else f"{host}:{listen.port}"


def unsigned_words(body: bytes) -> str:
    """Return what a problem document says went wrong, for a log: escaped and cut short, as nobody signed it."""
    try:
        return ascii(str(json.loads(body)["detail"])[:200])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _named_address(url: str) -> str | None:
    host = urlsplit(url).hostname or ""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def _read_bounded(response: requests.Response) -> bytes:
    body = response.raw.read(MAX_MESSAGE_BYTES + 1, decode_content=False)
    if len(body) > MAX_MESSAGE_BYTES:
        raise UnreachableError(f"its answer is over {MAX_MESSAGE_BYTES} bytes")
    return bytes(body)


def _reason(error: BaseException) -> str:
    """Say why in the words of the operating system: the texts of requests name objects by their address."""
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return f"its name cannot be resolved ({cause.strerror})"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason or cause.strerror})"
        if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
            return "it does not answer in time"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
    return "the connection was closed before an answer came"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield what caused an error, the innermost first."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return reversed(chain)
