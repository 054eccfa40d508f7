"""HTTP to one server, with limits on time and size that hold whatever the server does."""

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

import requests
import urllib3

from kattila_agent.config import host_of, without_zone
from kattila_agent.outbound.http.resolver import Resolver
from kattila_agent.outbound.http.transport import MakeBody, Request, Sockets, session_over
from kattila_protocol.foreign_text import shown
from kattila_protocol.message import MAX_MESSAGE_BYTES
from kattila_settings.values import ALL_ADDRESSES, Listen

_WORDS_LENGTH = 200
CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
# From the first byte sent to the last one read. A server that sends its answer too slowly is cut off.
TOTAL_SECONDS = 15.0

# Shared by all connections of the program, so that each name is resolved once.
SYSTEM = Resolver()

_Received = TypeVar("_Received")
# Sends a request with these options of requests, and returns what it received.
_Send = Callable[[Request, dict[str, Any]], _Received]


class UnreachableError(Exception):
    """No whole answer came back.

    The text says why, without details that vary between attempts.
    """


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to a GET: status, Server header (empty if missing), and body."""

    status: int
    server: str
    body: bytes


class Reply(NamedTuple):
    """The answer to a POST: status, body, and the seconds of Retry-After, if any."""

    status: int
    body: bytes
    retry_after_seconds: int | None = None


class Connection:
    """Keep-alive HTTP to one server, for one thread.

    Without proxies, redirects, cookies and compression. A request takes at most `total_seconds`, except that resolving
    a name may take RESOLVE_SECONDS, and connecting to one of its addresses `connect_seconds`.
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
        self._url, zone = without_zone(url)
        self._total_seconds = total_seconds
        self._connect_seconds = connect_seconds
        self._sockets = Sockets()
        self._resolver = resolver
        self._session = session_over(self._sockets, resolver, self._url, zone)
        self._named_address = _named_address(url)

    def post(
        self,
        path: str,
        body: bytes | MakeBody,
        headers: Mapping[str, str] | None = None,
        *,
        total_seconds: float | None = None,
    ) -> Reply:
        """Post JSON and return the answer; `total_seconds` applies to this request alone.

        A function as `body` is called once the connection stands, and again for another connection.

        Raises:
            UnreachableError: no connection, no answer in time, or one over 256 KiB.
        """
        make_body = None if isinstance(body, bytes) else body
        message = {"data": body if isinstance(body, bytes) else b"", "headers": headers}
        request = Request(self._total_seconds if total_seconds is None else total_seconds, make_body)
        return self._in_time(lambda request, options: self._post(path, request, options | message), request)

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Page:
        """Get a page; raises UnreachableError as `post` does."""
        return self._in_time(
            lambda _, options: self._get(path, options | {"params": parameters}), Request(self._total_seconds)
        )

    @property
    def address(self) -> str | None:
        """The IP address of the newest connection, or in the URL.

        None if neither is known yet.
        """
        return self._sockets.address or self._named_address

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._session.close()

    def _in_time(self, send: _Send[_Received], request: Request) -> _Received:
        timeout = min(self._connect_seconds, request.total_seconds), READ_SECONDS
        options = {"timeout": timeout, "allow_redirects": False, "stream": True}
        # Only the text of an error is kept: the error itself would keep the sockets in its frames open.
        received, problem = None, ""
        with self._sockets.cut_off_in_time(request):
            try:
                received = send(request, options)
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                problem = _reason(error)
            except ValueError:
                # The libraries raise it for lines that they cannot parse.
                problem = "its answer is not HTTP"
            if self._sockets.name is not None:
                self._remember_address(self._sockets.name, has_answered=received is not None and not request.is_cut_off)
        if request.is_cut_off:
            # An answer that was cut off in its first lines looks like an empty one.
            raise UnreachableError(f"no whole answer within {request.total_seconds:g} s")
        if received is None:
            raise UnreachableError(problem)
        return received

    def _remember_address(self, name: str, *, has_answered: bool) -> None:
        address = self._sockets.address
        if address is not None and (has_answered or self._sockets.open):
            self._resolver.remember(name, address, has_answered=has_answered)

    def _post(self, path: str, request: Request, options: dict[str, Any]) -> Reply:
        was_open, response = bool(self._sockets.open), None
        try:
            response = self._session.post(self._url + path, **options)
        except requests.ConnectionError:
            # A server may close an idle connection at any moment. Posting the message again is a duplicate at worst.
            if not was_open or request.is_cut_off:
                raise
            self._session.close()
        if response is None:
            response = self._session.post(self._url + path, **options)
        with response:
            retry_after = response.headers.get("Retry-After", "")
            # The other form of RFC 9110, section 10.2.3, is a date, which our servers do not send.
            seconds = int(retry_after) if re.fullmatch(r"[0-9]{1,6}", retry_after) else None
            return Reply(response.status_code, _read_bounded(response), seconds)

    def _get(self, path: str, options: dict[str, Any]) -> Page:
        with self._session.get(self._url + path, **options) as response:
            return Page(response.status_code, response.headers.get("Server", ""), _read_bounded(response))


class Connections:
    """Connections to one server, for several threads.

    Each request takes an idle one, or opens another.
    """

    def __init__(self, url: str) -> None:
        """Take the server's URL. Opens nothing yet."""
        self._url = url
        self._idle: SimpleQueue[Connection] = SimpleQueue()

    def post(self, path: str, body: bytes | MakeBody, total_seconds: float) -> Reply:
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
    """Return the host and port that reach this listener from the same machine."""
    host = "127.0.0.1" if listen.host == ALL_ADDRESSES else listen.host
    return f"[{host}]:{listen.port}" if ":" in host else f"{host}:{listen.port}"


def unsigned_words(body: bytes) -> str:
    """Return the detail of an unsigned problem document, escaped, cut and in quotes."""
    try:
        return f"'{shown(str(json.loads(body)['detail']), _WORDS_LENGTH)}'"
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _named_address(url: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host_of(url)))
    except ValueError:
        return None


def _read_bounded(response: requests.Response) -> bytes:
    body = response.raw.read(MAX_MESSAGE_BYTES + 1, decode_content=False)
    if len(body) > MAX_MESSAGE_BYTES:
        raise UnreachableError(f"its answer is over {MAX_MESSAGE_BYTES} bytes")
    return bytes(body)


def _reason(error: BaseException) -> str:
    """Return the operating system's text for an error.

    The texts of requests contain object addresses.
    """
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
    """Return an error and its causes, the innermost first."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return reversed(chain)
