"""HTTP transport to one server: sockets that another thread can shut down, and names resolved in bounded time."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from kattila_agent import __version__
from kattila_agent.outbound.http.connecting import connect
from kattila_agent.outbound.http.resolver import Resolver, address_of, is_address

# Returns the body of a request. It is called again if the request has to be sent over another connection.
MakeBody = Callable[[], bytes]


@dataclass(slots=True)
class Request:
    """A request in progress: its time limit, and whether it was cut off.

    `make_body` returns the body once the connection stands; None if the request has its body already.
    """

    total_seconds: float
    make_body: MakeBody | None = None
    is_cut_off: bool = False


class Sockets:
    """The open sockets of a session, for another thread to cut a request off.

    `open` contains duplicates, because TLS takes over the originals; shutting one down shuts the connection down.
    `address` is the address of the newest connection and `name` the server's name, None if the URL has an address.
    """

    def __init__(self) -> None:
        """Start without sockets."""
        self.open: set[socket.socket] = set()
        self._done: list[socket.socket] = []
        self.address: str | None = None
        self.name: str | None = None
        self._lock = threading.Lock()
        self.current: Request | None = None

    def add(self, opened: socket.socket) -> socket.socket:
        """Add an opened socket; return its duplicate, which `remove` takes."""
        duplicate = opened.dup()
        self.address = address_of(duplicate.getpeername())
        with self._lock:
            self.open.add(duplicate)
            if self.current is not None and self.current.is_cut_off:
                # Connected at last, but too late.
                _shut_down(duplicate)
        return duplicate

    def remove(self, duplicate: socket.socket) -> None:
        """Remove a socket that no other request will use.

        The current answer may still be read from it.
        """
        with self._lock:
            self._done.append(duplicate)
            if self.current is None:
                self._close_done()

    @contextmanager
    def cut_off_in_time(self, request: Request) -> Iterator[None]:
        """Shut down current and later connections once the request's time is over."""
        timer = threading.Timer(request.total_seconds, self._cut_off, (request,))
        timer.daemon = True
        with self._lock:
            self.current = request
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self.current = None
                if self._done:
                    self._close_done()

    def _cut_off(self, request: Request) -> None:
        with self._lock:
            # The timer may fire just after the request has ended and the next one has begun.
            if self.current is not request:
                return
            request.is_cut_off = True
            for duplicate in self.open:
                _shut_down(duplicate)

    def _close_done(self) -> None:
        for duplicate in self._done:
            self.open.discard(duplicate)
            duplicate.close()
        self._done.clear()


def _shut_down(duplicate: socket.socket) -> None:
    with suppress(OSError):  # Closed by the other end already.
        duplicate.shutdown(socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """The transport of requests, with connections that add their sockets to `sockets`."""

    def __init__(self, sockets: Sockets, resolver: Resolver, url: str, zone: str | None) -> None:
        self._sockets = sockets
        self._zone = zone
        self._resolver = resolver
        # The system's certificates, or those of SSL_CERT_FILE, so that a manager may have a private CA.
        self._tls = ssl.create_default_context() if url.startswith("https:") else None
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._tls is not None:
            kwargs["ssl_context"] = self._tls
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._sockets, self._resolver, self._zone)


def _pool_classes(sockets: Sockets, resolver: Resolver, zone: str | None) -> dict[str, type[HTTPConnectionPool]]:
    class Known(HTTPConnection):
        known: socket.socket | None = None

        def _new_conn(self) -> socket.socket:
            opened = _connect(self, sockets, resolver, zone)
            self.known = sockets.add(opened)
            return opened

        def request(
            self, method: str, url: str, body: Any = None, headers: Mapping[str, Any] | None = None, **more: Any
        ) -> None:
            make_body = sockets.current.make_body if sockets.current is not None else None
            if make_body is not None:
                # The body is signed with a timestamp, and connecting may take seconds.
                if self.is_closed:
                    self.connect()
                body = make_body()
                headers = {**(headers or {}), "Content-Length": str(len(body))}
            super().request(method, url, body, headers, **more)

        def close(self) -> None:
            super().close()
            if self.known is not None:
                sockets.remove(self.known)
                self.known = None

    class KnownTls(Known, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Known

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = KnownTls

    return {"http": Pool, "https": TlsPool}


def _connect(wanted: HTTPConnection, sockets: Sockets, resolver: Resolver, zone: str | None) -> socket.socket:
    if zone is not None or is_address(wanted.host):
        addresses: Sequence[str] = [wanted.host if zone is None else f"{wanted.host}%{zone}"]
    else:
        sockets.name = wanted.host
        addresses = resolver.addresses(wanted.host)
    seconds: Any = wanted.timeout
    opened = connect(addresses, wanted.port, seconds, wanted.socket_options or ())
    opened.settimeout(seconds)
    return opened


class _Session(requests.Session):
    """A session that does not recognize redirects.

    Even if redirects are off, requests reads and unpacks the whole body of one and parses its target, without limits.
    """

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - the signature is theirs
        return None


def session_over(sockets: Sockets, resolver: Resolver, url: str, zone: str | None) -> requests.Session:
    """Return a session to a URL's server that adds its open sockets to `sockets`.

    `zone` is the interface behind which the URL's link-local address is, None if it has another address.
    """
    session, adapter = _Session(), _Adapter(sockets, resolver, url, zone)
    # Requests go where the settings say: neither proxies nor a .netrc of the environment count.
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update(
        {
            "Accept": "application/json, application/problem+json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": f"kattila-agent/{__version__}",
        }
    )
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
