"""An HTTP/1.1 load generator that uses little CPU, because it shares the cores with the measured server.

It runs as a separate process (`python load.py --help`), so that its CPU time is not counted as the server's.
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
import resource
import select
import socket
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from requests_file import Requests

# How long to wait for outstanding answers after the last request.
DRAIN_SECONDS = 15.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_OUTCOME = re.compile(rb'"outcome": *"([a-z_]+)"')


@dataclass(slots=True)
class Result:
    """The result of one run.

    `outcomes` counts the answers by "STATUS OUTCOME". `elapsed_seconds` is the time from the first request to the last
    answer, latencies are in ms, `cpu_seconds` is the CPU time of the client. `kept` has bodies of answers by request
    number. `unanswered` counts requests without an answer, `broken` has the reason for each lost connection.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    answers: int = 0
    elapsed_seconds: float = 0.0
    per_second: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    cpu_seconds: float = 0.0
    unanswered: int = 0
    broken: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to send: for at most `seconds`, over `connections` connections to 127.0.0.1:`port`.

    agents: requests are assigned to connections by their number modulo `agents`, so that an agent stays on its
    connection; 0 uses any free connection. rate: requests per second over all connections. Each request has a due time,
    and waiting for an earlier answer counts as latency; 0 sends the next request after each answer. keep_every: keeps
    the body of one answer in this many; 0 keeps none.
    """

    port: int
    seconds: float
    connections: int = 64
    agents: int = 0
    rate: float = 0.0
    keep_every: int = 0


@dataclass(slots=True)
class _Connection:
    """A connection with at most one outstanding request: its number, its due time, and the answer so far.

    The socket stays open between requests, unless the server closes it.
    """

    index: int
    numbers: Iterator[int]
    socket: socket.socket | None = None
    due_at: float = 0.0
    number: int = -1
    answer: bytes = b""


class Client:
    """Sends each request once as planned, and counts the answers."""

    def __init__(self, requests: Requests, plan: Plan) -> None:
        """Open all connections."""
        self._requests = requests
        self._plan = plan
        self.result = Result()
        self._interval = plan.connections / plan.rate if plan.rate else 0.0
        self._due: list[tuple[float, int]] = []
        self._latencies = array("d")
        self._outstanding = 0
        self._started_at = self._ends_at = self._last_answer_at = 0.0
        self._poll = select.epoll()
        self._by_descriptor: dict[int, _Connection] = {}
        everything = iter(range(len(requests)))
        self._connections = [
            _Connection(index, self._share(index) if plan.agents else everything) for index in range(plan.connections)
        ]
        for connection in self._connections:
            self._connect(connection)

    def run(self) -> Result:
        """Send until everything is sent or the time is up, then wait for outstanding answers."""
        self._started_at = self._last_answer_at = time.monotonic()
        self._ends_at = self._started_at + self._plan.seconds
        for index in range(self._plan.connections):
            due_at = self._started_at + (index / self._plan.rate if self._plan.rate else 0.0)
            heapq.heappush(self._due, (due_at, index))
        while (timeout := self._send_due(time.monotonic())) > 0:
            for descriptor, _ in self._poll.poll(timeout):
                self._receive(self._by_descriptor[descriptor])
        for connection in self._connections:
            self._disconnect(connection)
        self._poll.close()
        return self._summary()

    def _connect(self, connection: _Connection) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self._plan.port), timeout=10)
        # Blocking is fine from here on: after the previous answer, a request fits into the kernel's buffers.
        connected.settimeout(None)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.socket = connected
        self._by_descriptor[connected.fileno()] = connection
        self._poll.register(connected, select.EPOLLIN)
        return connected

    def _disconnect(self, connection: _Connection) -> None:
        if connection.socket is not None:
            del self._by_descriptor[connection.socket.fileno()]
            self._poll.unregister(connection.socket)
            connection.socket.close()
            connection.socket = None

    def _share(self, index: int) -> Iterator[int]:
        for first in range(0, len(self._requests), self._plan.agents):
            yield from range(first + index, min(first + self._plan.agents, len(self._requests)), self._plan.connections)

    def _send_due(self, now: float) -> float:
        """Send the requests that are due; return the seconds to wait for answers, 0 when the run is over."""
        if now >= self._ends_at:
            return self._ends_at + DRAIN_SECONDS - now if self._outstanding else 0.0
        while self._due and self._due[0][0] <= now:
            # The connection was idle, so a late start is the client's delay and does not count as latency.
            self._send(self._connections[heapq.heappop(self._due)[1]], now)
        if self._due:
            return max(0.0001, min(self._due[0][0], self._ends_at) - now)
        return self._ends_at - now if self._outstanding else 0.0

    def _send(self, connection: _Connection, due_at: float) -> None:
        connection.number = next(connection.numbers, -1)
        if connection.number < 0:
            return
        connection.due_at = due_at
        connection.answer = b""
        self._outstanding += 1
        try:
            (connection.socket or self._connect(connection)).sendall(self._requests[connection.number])
        except OSError as error:
            self._lose(connection, f"sending: {error}")

    def _receive(self, connection: _Connection) -> None:
        try:
            received = connection.socket.recv(65536) if connection.socket else b""
        except OSError as error:
            return self._lose(connection, f"receiving: {error}")
        if not received:
            return self._lose(connection, "closed by the server")
        connection.answer = answer = connection.answer + received if connection.answer else received
        head_end = answer.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        length = _LENGTH.search(answer, 0, head_end + 2)
        if length is None:
            return self._lose(connection, f"an answer without Content-Length: {answer[:200]!r}")
        if len(answer) >= head_end + 4 + int(length.group(1)):
            self._answered(connection, answer, head_end)
        return None

    def _answered(self, connection: _Connection, answer: bytes, head_end: int) -> None:
        self._last_answer_at = now = time.monotonic()
        self._outstanding -= 1
        self._latencies.append(now - connection.due_at)
        self._count(connection.number, answer, head_end)
        connection.number = -1
        if _CLOSE.search(answer, 0, head_end + 2):
            self._disconnect(connection)
        next_due_at = connection.due_at + self._interval if self._interval else now
        if now >= self._ends_at:
            return
        if next_due_at > now:
            heapq.heappush(self._due, (next_due_at, connection.index))
        else:
            self._send(connection, next_due_at)

    def _count(self, number: int, answer: bytes, head_end: int) -> None:
        outcome = _OUTCOME.search(answer, head_end)
        name = answer[9:12].decode("latin-1") + (" " + outcome.group(1).decode() if outcome else "")
        self.result.outcomes[name] = self.result.outcomes.get(name, 0) + 1
        if self._plan.keep_every and number % self._plan.keep_every == 0:
            self.result.kept[str(number)] = answer[head_end + 4 :].decode("latin-1")

    def _lose(self, connection: _Connection, reason: str) -> None:
        """Stop using a connection that the server dropped; such a run has failed."""
        self._outstanding -= connection.number >= 0
        self.result.unanswered += connection.number >= 0
        self.result.broken.append(reason)
        connection.number, connection.numbers = -1, iter(())
        self._disconnect(connection)

    def _summary(self) -> Result:
        result, latencies = self.result, sorted(self._latencies)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        result.cpu_seconds = usage.ru_utime + usage.ru_stime
        result.unanswered += self._outstanding
        result.answers = len(latencies)
        result.elapsed_seconds = self._last_answer_at - self._started_at
        if latencies:
            result.per_second = len(latencies) / result.elapsed_seconds
            result.p50_ms, result.p99_ms = (1000 * latencies[len(latencies) * share // 100] for share in (50, 99))
            result.max_ms = 1000 * latencies[-1]
        return result


def main() -> None:
    """Run once and write the result."""
    parser = argparse.ArgumentParser(description="Send prebuilt requests, and write the result as one JSON object.")
    parser.add_argument("requests", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument(
        "--agents", type=int, default=0, help="number of agents, each bound to a connection; 0 for none"
    )
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0 for full speed")
    parser.add_argument("--keep-every", type=int, default=0, help="keep the body of one answer in N")
    arguments = vars(parser.parse_args())
    requests, result = Requests(arguments.pop("requests")), arguments.pop("result")
    result.write_text(json.dumps(asdict(Client(requests, Plan(**arguments)).run())))


if __name__ == "__main__":
    main()
