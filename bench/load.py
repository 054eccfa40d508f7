"""An HTTP/1.1 client that costs as little CPU as it can: it shares the cores with the server that it measures.

May live here: sending, timing and counting. Not here: what is sent (reports.py), or to whom (servers.py). It runs as a
process of its own (`python load.py --help`), so that its CPU time can be told from the server's.
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

# What was asked in time is waited for this long.
DRAIN_SECONDS = 15.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_OUTCOME = re.compile(rb'"outcome": *"([a-z_]+)"')


@dataclass(slots=True)
class Result:
    """What one run gave.

    `outcomes` counts the answers by "STATUS OUTCOME". `elapsed_seconds` runs from the first request to the last answer,
    latencies are in ms, `cpu_seconds` is the client's own. `kept` holds bodies of answers by the request's number.
    `unanswered` counts requests without an answer, `broken` says why connections were lost.
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
    """How to send: for `seconds` at most, over so many `connections` to 127.0.0.1:`port`.

    With `agents` the requests are dealt out by their number modulo it, so that an agent stays on its connection; with 0
    each goes to whichever connection is free. With a `rate` (requests per second, over all connections) requests have
    appointments: one that has to wait for the answer before it counts the waiting; with 0 each follows the last answer.
    Of every `keep_every` answers one is kept; 0 keeps none.
    """

    port: int
    seconds: float
    connections: int = 64
    agents: int = 0
    rate: float = 0.0
    keep_every: int = 0


@dataclass(slots=True)
class _Connection:
    """A place with at most one request under way: its number, when it was due, what came of its answer.

    Its socket lives on from request to request, unless the server closes it after each.
    """

    place: int
    numbers: Iterator[int]
    socket: socket.socket | None = None
    due_at: float = 0.0
    number: int = -1
    answer: bytes = b""


class Client:
    """Sends requests as planned, each once, and keeps count."""

    def __init__(self, requests: Requests, plan: Plan) -> None:
        """Connect all connections."""
        self._requests = requests
        self._plan = plan
        self.result = Result()
        self._interval = plan.connections / plan.rate if plan.rate else 0.0
        self._appointments: list[tuple[float, int]] = []
        self._latencies = array("d")
        self._under_way = 0
        self._started_at = self._ends_at = self._last_answer_at = 0.0
        self._poll = select.epoll()
        self._by_descriptor: dict[int, _Connection] = {}
        everything = iter(range(len(requests)))
        self._connections = [
            _Connection(place, self._share(place) if plan.agents else everything) for place in range(plan.connections)
        ]
        for connection in self._connections:
            self._connect(connection)

    def run(self) -> Result:
        """Send until all is sent or time is up, then wait for what is under way."""
        self._started_at = self._last_answer_at = time.monotonic()
        self._ends_at = self._started_at + self._plan.seconds
        for place in range(self._plan.connections):
            due_at = self._started_at + (place / self._plan.rate if self._plan.rate else 0.0)
            heapq.heappush(self._appointments, (due_at, place))
        while (patience := self._turn(time.monotonic())) > 0:
            for descriptor, _ in self._poll.poll(patience):
                self._receive(self._by_descriptor[descriptor])
        for connection in self._connections:
            self._disconnect(connection)
        self._poll.close()
        return self._summed_up()

    def _connect(self, connection: _Connection) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self._plan.port), timeout=10)
        # Blocking from here: a request fits into the kernel's buffers once the answer before it is here.
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

    def _share(self, place: int) -> Iterator[int]:
        for first in range(0, len(self._requests), self._plan.agents):
            yield from range(first + place, min(first + self._plan.agents, len(self._requests)), self._plan.connections)

    def _turn(self, now: float) -> float:
        """Send what is due; return for how many seconds answers may be waited for, 0 when the run is over."""
        if now >= self._ends_at:
            return self._ends_at + DRAIN_SECONDS - now if self._under_way else 0.0
        while self._appointments and self._appointments[0][0] <= now:
            # Idle until now: that it is sent a moment after its time is the client's doing.
            self._ask(self._connections[heapq.heappop(self._appointments)[1]], now)
        if self._appointments:
            return max(0.0001, min(self._appointments[0][0], self._ends_at) - now)
        return self._ends_at - now if self._under_way else 0.0

    def _ask(self, connection: _Connection, due_at: float) -> None:
        connection.number = next(connection.numbers, -1)
        if connection.number < 0:
            return
        connection.due_at = due_at
        connection.answer = b""
        self._under_way += 1
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
        self._under_way -= 1
        self._latencies.append(now - connection.due_at)
        self._count(connection.number, answer, head_end)
        connection.number = -1
        if _CLOSE.search(answer, 0, head_end + 2):
            self._disconnect(connection)
        next_due_at = connection.due_at + self._interval if self._interval else now
        if now >= self._ends_at:
            return
        if next_due_at > now:
            heapq.heappush(self._appointments, (next_due_at, connection.place))
        else:
            self._ask(connection, next_due_at)

    def _count(self, number: int, answer: bytes, head_end: int) -> None:
        outcome = _OUTCOME.search(answer, head_end)
        name = answer[9:12].decode("latin-1") + (" " + outcome.group(1).decode() if outcome else "")
        self.result.outcomes[name] = self.result.outcomes.get(name, 0) + 1
        if self._plan.keep_every and number % self._plan.keep_every == 0:
            self.result.kept[str(number)] = answer[head_end + 4 :].decode("latin-1")

    def _lose(self, connection: _Connection, why: str) -> None:
        """Give a place up: a server that drops a connection without a word has not passed the run."""
        self._under_way -= connection.number >= 0
        self.result.unanswered += connection.number >= 0
        self.result.broken.append(why)
        connection.number, connection.numbers = -1, iter(())
        self._disconnect(connection)

    def _summed_up(self) -> Result:
        result, latencies = self.result, sorted(self._latencies)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        result.cpu_seconds = usage.ru_utime + usage.ru_stime
        result.unanswered += self._under_way
        result.answers = len(latencies)
        result.elapsed_seconds = self._last_answer_at - self._started_at
        if latencies:
            result.per_second = len(latencies) / result.elapsed_seconds
            result.p50_ms, result.p99_ms = (1000 * latencies[len(latencies) * share // 100] for share in (50, 99))
            result.max_ms = 1000 * latencies[-1]
        return result


def main() -> None:
    """Run once and write the result."""
    parser = argparse.ArgumentParser(description="Send prebuilt requests, write one JSON object with what came of it.")
    parser.add_argument("requests", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--agents", type=int, default=0, help="keep each of so many agents on one connection")
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0: as fast as answers come")
    parser.add_argument("--keep-every", type=int, default=0, help="keep one answer of every N")
    arguments = vars(parser.parse_args())
    requests, result = Requests(arguments.pop("requests")), arguments.pop("result")
    result.write_text(json.dumps(asdict(Client(requests, Plan(**arguments)).run())))


if __name__ == "__main__":
    main()
