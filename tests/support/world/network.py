"""The simulated network: reachability, lost messages, and an attacker who records and replays requests."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from kattila_agent.outbound.http.clients import RELAY
from kattila_agent.outbound.http.connection import Reply, UnreachableError
from support.world.book import Book
from support.world.wsgi import Answer

MANAGER = "192.0.2.250"
# The number of requests and answers that the attacker remembers.
_REMEMBERED = 300


@dataclass(frozen=True)
class Request:
    """A request in transit; `source` and `target` are addresses."""

    source: str
    target: str
    method: str
    path: str
    body: bytes = b""
    parameters: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class Fault(Enum):
    """A fault of one request or of its answer."""

    REQUEST_LOST = auto()
    ANSWER_LOST = auto()
    ANSWER_OF_ANOTHER = auto()
    GARBAGE = auto()
    DUPLICATED = auto()


class Network:
    """Delivers requests immediately or not at all; `hosts` maps addresses to their servers."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.hosts: dict[str, Callable[[Request], Answer]] = {}
        # (source, target) pairs without a route in this direction.
        self.cut: set[tuple[str, str]] = set()
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.overheard: deque[Request] = deque(maxlen=_REMEMBERED)
        self._answers: deque[Answer] = deque(maxlen=_REMEMBERED)
        # The number of requests, by path and by (target, path).
        self.requests: Counter[str] = Counter()
        self.requests_to: Counter[tuple[str, str]] = Counter()

    def deliver(self, request: Request) -> Answer:
        """Return the answer of the target; raises UnreachableError."""
        self.requests[request.path] += 1
        self.requests_to[request.target, request.path] += 1
        if (request.source, request.target) in self.cut:
            raise UnreachableError("no route to host")
        if request.method == "GET":
            return self._delivered(request)
        self.overheard.append(request)
        with self._book.sending(request.path, request.body):
            return self._with_fault(request)

    def replay(self, request: Request) -> None:
        """Send a recorded request again."""
        self._book.is_replay = True
        try:
            self._delivered(request)
        except UnreachableError:
            pass
        finally:
            self._book.is_replay = False

    def _with_fault(self, request: Request) -> Answer:
        faults = self.faults[request.source]
        fault = faults.popleft() if faults else None
        if fault is Fault.REQUEST_LOST:
            raise UnreachableError("it does not answer in time")
        answer = self._delivered(request)
        if request.path == RELAY:
            self._book.check_relay_answer(request.body, answer)
        if fault is Fault.DUPLICATED:
            answer = self._delivered(request)
        if fault is Fault.ANSWER_LOST:
            raise UnreachableError("it does not answer in time")
        if fault is Fault.GARBAGE:
            return Answer(200, {}, b"<html>welcome</html>")
        if fault is Fault.ANSWER_OF_ANOTHER and self._answers:
            self._book.tamper(request.path, request.body)
            return self._answers[0]
        self._answers.append(answer)
        return answer

    def _delivered(self, request: Request) -> Answer:
        host = self.hosts.get(request.target)
        if host is None:
            raise UnreachableError("connection refused")
        return host(request)


def as_reply(answer: Answer) -> Reply:
    """Return an answer as the agent's connection returns it."""
    busy: Any = answer.headers.get("retry-after")
    return Reply(answer.status, answer.body, None if busy is None else int(busy))
