"""The agent's HTTP server: threads and limits around a WSGI application.

It adds to waitress: limits on connections for each source and on how long a request may take to arrive, strict heads,
problem documents for refusals by waitress itself, SERVER_NAME as the address that the request came to, and a thread
that no failure ends.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import socket
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import BadRequest

from kattila_agent.peer_api.connections import Connections, Limits
from kattila_agent.peer_api.listening import BACKLOG
from kattila_protocol import request_head
from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.request_head import MAX_HEAD_BYTES, HeadError
from kattila_settings.failures import Failures, described, keep_running

# The Server header of every answer.
NAME = "kattila-agent"

# Half of them may be busy with relayed reports (relay.SLOTS).
_THREADS = 8
LIMITS = Limits()
_CHECK_SECONDS = 1
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_ACCEPTING = "accepting connections to the API"
# What waitress needs before it can answer a request that has no valid head.
_NO_HEAD = b"GET / HTTP/1.0\r\n"

_log = logging.getLogger("kattila.agent")


def serve(
    app: Callable[..., Any],
    sockets: list[socket.socket],
    is_allowed: Callable[[str], bool],
    limits: Limits = LIMITS,
) -> threading.Thread:
    """Serve a WSGI application on bound sockets; return the thread.

    SERVER_NAME is the own address of the connection, REMOTE_ADDR that of the client. Sources that `is_allowed` rejects
    share a few connections.
    """
    # Each server and each connection adds itself to the map, which one loop serves.
    opened: dict[int, Any] = {}
    failures = Failures(_log)
    connections = Connections(
        is_allowed, limits, lambda: [each for each in opened.values() if isinstance(each, _ClientChannel)]
    )
    settings, dispatcher = _settings(sockets, limits), ThreadedTaskDispatcher()
    dispatcher.set_thread_count(settings.threads)
    for bound in sockets:
        info = (bound.family, bound.type, bound.proto, bound.getsockname())
        named = {"dispatcher": dispatcher, "adj": settings, "bind_socket": False, "sockinfo": info}
        server = _Server(app, opened, False, bound, **named)
        server.failures, server.connections = failures, connections
        server.accept_connections()

    def handle_events() -> bool:
        connections.close_dismissed()
        wasyncore.loop(timeout=settings.asyncore_loop_timeout, use_poll=True, map=opened, count=1)
        return bool(opened)

    named = {"name": "api", "daemon": True}
    thread = threading.Thread(
        target=keep_running, args=(handle_events, "serving the API", failures, time.sleep), **named
    )
    thread.start()
    return thread


def _settings(sockets: list[socket.socket], limits: Limits) -> Adjustments:
    return Adjustments(
        sockets=sockets,
        ident=NAME,
        threads=_THREADS,
        backlog=BACKLOG,
        # `Connections` keeps the limit. At this one, waitress would accept nobody any more.
        connection_limit=10 * limits.total,
        cleanup_interval=_CHECK_SECONDS,
        channel_timeout=math.ceil(limits.request_seconds),
        max_request_body_size=MAX_BODY_BYTES,
        max_request_header_size=MAX_HEAD_BYTES + 1,
        log_socket_errors=False,
        asyncore_use_poll=True,
    )


class _StrictParser(HTTPRequestParser):  # type: ignore[misc] # waitress has no types
    """Refuses heads that `request_head` refuses, before waitress reads them."""

    completed: bool

    def received(self, data: bytes) -> int:
        if self.body_rcv is None and not self.completed:
            try:
                self._check(self.header_plus + data)
            except HeadError as error:
                self.parse_header(_NO_HEAD)
                self.error, self.completed = _BadHead(error), True
                return len(data)
        return int(super().received(data))

    def _check(self, received: bytes) -> None:
        request_head.refuse_early(received)
        head, end, _ = received.partition(request_head.END)
        if end:
            request_head.parse(head + end)


class _BadHead(BadRequest):  # type: ignore[misc] # waitress has no types
    def __init__(self, error: HeadError) -> None:
        super().__init__(str(error))
        self.code = error.status


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
    parser_class = _StrictParser

    def __init__(self, server: Any, sock: socket.socket, address: Any, *more: Any, **named: Any) -> None:
        super().__init__(server, sock, address, *more, **named)
        # Read now, because the socket may be closed while the request is answered.
        self.local_address = sock.getsockname()[0]
        self.pool = server.connections.pool_of(address[0])
        self._idle_since = self.creation_time

    @property
    def waiting_since(self) -> float:
        """When it began to wait for a request; infinity while one is answered."""
        return math.inf if self.requests else float(self._idle_since)

    @property
    def has_head(self) -> bool:
        """Whether the head of the next request has arrived."""
        return self.request is not None and bool(self.request.headers_finished)

    def service(self) -> None:
        self._idle_since = math.inf
        super().service()
        self._idle_since = self.last_activity


class _Server(TcpWSGIServer):  # type: ignore[misc] # waitress has no types
    channel_class = _ClientChannel
    failures: Failures
    connections: Connections

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
        if accepted is not None and not self.connections.make_room(self.connections.pool_of(accepted[1][0])):
            accepted[0].close()
            return None
        return accepted

    def handle_error(self) -> None:
        """Log an error, and continue to listen; waitress would close the listening socket."""
        error = sys.exc_info()[1]
        if error is not None:
            self.failures.failed(_ACCEPTING, f"{_ACCEPTING} failed, and is tried again: {described(error)}")

    def maintenance(self, now: float) -> None:
        """Also close connections that have waited too long, even if a slow request is active."""
        self.accepting = True
        with self.failures.guard("closing old connections"):
            super().maintenance(now)
            self.connections.dismiss_overdue(now)
