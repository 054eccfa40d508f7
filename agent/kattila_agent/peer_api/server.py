"""The agent's HTTP server: sockets, threads and limits around a WSGI application.

It adds to waitress: a limit on how long a request may take to arrive, problem documents for refusals by waitress
itself, SERVER_NAME as the address that the request came to, and a thread that no failure ends.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask

from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_settings.failures import Failures, described, keep_running
from kattila_settings.values import ALL_ADDRESSES, Listen

# The Server header of every answer.
NAME = "kattila-agent"

# Half of them may be busy with relayed reports (relay.SLOTS).
_THREADS = 8
_CONNECTIONS = 200
# A connection without a complete request is closed at this age.
MAX_AGE_SECONDS = 60
_CHECK_SECONDS = 5
_MAX_HEADER_BYTES = 16 * 1024
_BACKLOG = 128
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_ACCEPTING = "accepting connections to the API"

_log = logging.getLogger("kattila.agent")


class ListenError(OSError):
    """The agent cannot listen on an address; the text says which, why, and what to do."""


class NoAddressError(ListenError):
    """This machine does not have the address of `listen`, which may come later."""

    def __init__(self, text: str, listen: Listen) -> None:
        """Take the text of a ListenError, and the setting."""
        super().__init__(text)
        self.listen = listen


def open_sockets(listens: Iterable[Listen]) -> list[socket.socket]:
    """Bind and return all sockets; `*` means both families if the kernel has IPv6.

    Raises ListenError.
    """
    opened: list[socket.socket] = []
    try:
        for listen in listens:
            opened += _open(listen)
    except ListenError:
        for bound in opened:
            bound.close()
        raise
    return opened


def serve(
    app: Callable[..., Any], sockets: list[socket.socket], *, max_age_seconds: int = MAX_AGE_SECONDS
) -> threading.Thread:
    """Serve a WSGI application on bound sockets; return the thread.

    SERVER_NAME is the own address of the connection, REMOTE_ADDR that of the client.
    """
    limits = Adjustments(
        sockets=sockets,
        ident=NAME,
        threads=_THREADS,
        backlog=_BACKLOG,
        connection_limit=_CONNECTIONS,
        cleanup_interval=min(_CHECK_SECONDS, max_age_seconds),
        channel_timeout=max_age_seconds,
        max_request_body_size=MAX_BODY_BYTES,
        max_request_header_size=_MAX_HEADER_BYTES,
        log_socket_errors=False,
        asyncore_use_poll=True,
    )
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(limits.threads)
    # Each server adds itself to the map, which one loop serves.
    servers: dict[int, Any] = {}
    failures = Failures(_log)
    for bound in sockets:
        info = (bound.family, bound.type, bound.proto, bound.getsockname())
        server = _Server(
            app, servers, False, bound, dispatcher=dispatcher, adj=limits, bind_socket=False, sockinfo=info
        )
        server.failures = failures
        server.accept_connections()

    def handle_events() -> bool:
        wasyncore.loop(timeout=limits.asyncore_loop_timeout, use_poll=True, map=servers, count=1)
        return bool(servers)

    thread = threading.Thread(
        target=keep_running, args=(handle_events, "serving the API", failures, time.sleep), name="api", daemon=True
    )
    thread.start()
    return thread


def address_of(bound: socket.socket) -> str:
    """Return where a socket listens, as "192.0.2.1:5087" or "[2001:db8::1]:5087"."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _ProblemTask(ErrorTask):  # type: ignore[misc] # waitress has no types
    """A refusal by waitress itself, as a problem document (RFC 9457)."""

    def execute(self) -> None:
        status = HTTPStatus(self.request.error.code)
        body = json.dumps(
            {"type": "about:blank", "title": status.phrase, "status": status, "detail": str(self.request.error.body)}
        ).encode()
        self.status = f"{status.value} {status.phrase}"
        self.response_headers.append(("Content-Type", "application/problem+json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _RequestTask(WSGITask):  # type: ignore[misc] # waitress has no types
    def get_environment(self) -> dict[str, Any]:
        return {**super().get_environment(), "SERVER_NAME": self.channel.local_address}


class _ClientChannel(HTTPChannel):  # type: ignore[misc] # waitress has no types
    task_class = _RequestTask
    error_task_class = _ProblemTask

    def __init__(self, server: Any, sock: socket.socket, *more: Any, **named: Any) -> None:
        super().__init__(server, sock, *more, **named)
        # Read now, because the socket may be closed while the request is answered.
        self.local_address = sock.getsockname()[0]


class _Server(TcpWSGIServer):  # type: ignore[misc] # waitress has no types
    channel_class = _ClientChannel
    failures: Failures

    def accept(self) -> tuple[socket.socket, Any] | None:
        """Accept a connection; if the process has too many open files, stop until the next maintenance."""
        try:
            accepted: tuple[socket.socket, Any] | None = super().accept()
        except OSError as error:
            self.failures.failed(_ACCEPTING, f"{_ACCEPTING} failed, and is tried again: {error.strerror}")
            # The connection waits in the kernel, so without a pause the loop would turn without end.
            self.accepting = error.errno not in _OUT_OF_RESOURCES
            return None
        self.failures.worked(_ACCEPTING)
        return accepted

    def handle_error(self) -> None:
        """Log an error, and continue to listen; waitress would close the listening socket."""
        error = sys.exc_info()[1]
        if error is not None:
            self.failures.failed(_ACCEPTING, f"{_ACCEPTING} failed, and is tried again: {described(error)}")

    def maintenance(self, now: float) -> None:
        """Also close connections that are too old, even if a slow request is active."""
        self.accepting = True
        with self.failures.guard("closing old connections"):
            super().maintenance(now)
            for channel in self.active_channels.values():
                if not channel.requests and channel.creation_time < now - self.adj.channel_timeout:
                    channel.will_close = True


def _open(listen: Listen) -> list[socket.socket]:
    if listen.host != ALL_ADDRESSES:
        return [_bind(socket.AF_INET6 if ":" in listen.host else socket.AF_INET, listen.host, listen.port)]
    bound = [_bind(socket.AF_INET, "0.0.0.0", listen.port)]  # noqa: S104 - the setting asks for all addresses
    if _has_ipv6():
        try:
            bound.append(_bind(socket.AF_INET6, "::", listen.port or bound[0].getsockname()[1]))
        except ListenError:
            bound[0].close()
            raise
    return bound


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    try:
        return _bound(family, host, port)
    except OSError as error:
        text = f"cannot listen on {host} port {port} ({error.strerror}): {_remedy(error)}"
        if error.errno == errno.EADDRNOTAVAIL:
            raise NoAddressError(text, Listen(host, port)) from error
        raise ListenError(text) from error


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.listen(_BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "is another agent running? AGENT_LISTEN sets another address or port"
        case errno.EADDRNOTAVAIL:
            return "the agent listens once this machine has the address; correct AGENT_LISTEN if it never will"
        case errno.EAFNOSUPPORT:
            return "the kernel has no IPv6; set an IPv4 address in AGENT_LISTEN"
        case errno.EACCES:
            return "ports below 1024 need CAP_NET_BIND_SERVICE; set a higher port in AGENT_LISTEN"
        case _:
            return "correct AGENT_LISTEN"
