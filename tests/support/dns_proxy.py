"""A UDP and TCP proxy for a DNS server that counts queries, and loses or changes answers."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from support.knot import free_port
from support.waiting import PATIENCE_SECONDS

# Flags in the DNS header (RFC 1035, section 4.1.1): TC in the third byte, AD in the fourth (RFC 4035, section 3.2.3).
_TC = 0x02
AD = 0x20
_HEADER_BYTES = 12
_STEP_SECONDS = 0.05

# Takes the number of a UDP query (from 1) and its answer; returns the answer to forward, or None to lose it.
Path = Callable[[int, bytes], bytes | None]


class DnsProxy:
    """Forwards UDP and TCP to a server on loopback, and counts `udp_queries` and `tcp_queries`.

    Without `tcp` its TCP port is closed.
    """

    def __init__(self, upstream_port: int, path: Path, *, tcp: bool) -> None:
        self.port = free_port()
        self.udp_queries = 0
        self.tcp_queries = 0
        self._upstream = ("127.0.0.1", upstream_port)
        self._path = path
        self._ended = threading.Event()
        # Opened here, so that the first query cannot come too early.
        self._udp, self._tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
        self._udp.bind(("127.0.0.1", self.port))
        self._has_tcp = tcp
        if tcp:
            self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._tcp.bind(("127.0.0.1", self.port))
            self._tcp.listen()

    @property
    def address(self) -> str:
        """As `DNS_SERVER=` takes it."""
        return f"127.0.0.1:{self.port}"

    def serve(self) -> None:
        """Forward until `end` is called."""
        with self._udp, self._tcp:
            listening = [self._udp, self._tcp] if self._has_tcp else [self._udp]
            while not self._ended.is_set():
                for ready in select.select(listening, [], [], _STEP_SECONDS)[0]:
                    self._answer_udp() if ready is self._udp else self._answer_tcp()

    def end(self) -> None:
        self._ended.set()

    def _answer_udp(self) -> None:
        query, sender = self._udp.recvfrom(65535)
        self.udp_queries += 1
        with socket.socket(type=socket.SOCK_DGRAM) as upstream:
            upstream.settimeout(PATIENCE_SECONDS)
            upstream.sendto(query, self._upstream)
            answer = self._path(self.udp_queries, upstream.recv(65535))
        if answer is not None:
            self._udp.sendto(answer, sender)

    def _answer_tcp(self) -> None:
        self.tcp_queries += 1
        with (
            self._tcp.accept()[0] as caller,
            socket.create_connection(self._upstream, timeout=PATIENCE_SECONDS) as upstream,
        ):
            caller.settimeout(PATIENCE_SECONDS)
            other = {caller: upstream, upstream: caller}
            while True:
                for ready in select.select([caller, upstream], [], [], PATIENCE_SECONDS)[0]:
                    part = ready.recv(65535)
                    if not part:
                        return
                    other[ready].sendall(part)


@contextmanager
def dns_proxy(upstream_port: int, path: Path = lambda _, answer: answer, *, tcp: bool = True) -> Iterator[DnsProxy]:
    """Run a proxy in a thread."""
    proxy = DnsProxy(upstream_port, path, tcp=tcp)
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.end()
        thread.join()


def lose_first(number: int, answer: bytes) -> bytes | None:
    """Lose the answer to the first query."""
    return None if number == 1 else answer


def truncate(_: int, answer: bytes) -> bytes:
    """Reduce every answer to its header and question, with the TC flag and no records."""
    # The name ends with an empty label; type and class follow.
    question = answer[_HEADER_BYTES : answer.index(b"\0", _HEADER_BYTES) + 5]
    return answer[:2] + bytes([answer[2] | _TC, answer[3]]) + answer[4:6] + bytes(6) + question


def mark_validated(_: int, answer: bytes) -> bytes:
    """Set AD, as a validating resolver does."""
    return answer[:3] + bytes([answer[3] | AD]) + answer[4:]
