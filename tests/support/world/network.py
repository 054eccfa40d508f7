"""What carries requests between machines: who reaches whom, what gets lost on the way, what a listener remembers."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from kattila_agent.outbound.connection import Reply, UnreachableError
from kattila_agent.outbound.delivery import RELAY
from support.world.book import Book
from support.world.wsgi import Answer

MANAGER = "192.0.2.250"
# What somebody on the way keeps, to send it again.
_REMEMBERED = 300


@dataclass(frozen=True)
class Request:
    """One request as it travels; `source` and `target` are addresses."""

    source: str
    target: str
    method: str
    path: str
    body: bytes = b""
    parameters: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


class Fault(Enum):
    """What happens to one request, or to its answer."""

    REQUEST_LOST = auto()
    ANSWER_LOST = auto()
    ANSWER_OF_ANOTHER = auto()
    GARBAGE = auto()
    COMES_TWICE = auto()


class Network:
    """Carries requests at once, or not at all. `hosts` says what answers at an address."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self.hosts: dict[str, Callable[[Request], Answer]] = {}
        # (source, target): no connection can be opened in this direction.
        self.cut: set[tuple[str, str]] = set()
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.overheard: deque[Request] = deque(maxlen=_REMEMBERED)
        self._answers: deque[Answer] = deque(maxlen=_REMEMBERED)
        # How many requests were made, by path and by (target, path).
        self.made: Counter[str] = Counter()
        self.made_of: Counter[tuple[str, str]] = Counter()

    def carry(self, request: Request) -> Answer:
        """Take a request to its target; raises UnreachableError."""
        self.made[request.path] += 1
        self.made_of[request.target, request.path] += 1
        if (request.source, request.target) in self.cut:
            raise UnreachableError("no route to host")
        if request.method == "GET":
            return self._delivered(request)
        self.overheard.append(request)
        with self._book.sending(request.path, request.body):
            return self._disturbed(request)

    def replay(self, request: Request) -> None:
        """Send once more what was overheard."""
        self._book.is_replay = True
        try:
            self._delivered(request)
        except UnreachableError:
            pass
        finally:
            self._book.is_replay = False

    def _disturbed(self, request: Request) -> Answer:
        faults = self.faults[request.source]
        fault = faults.popleft() if faults else None
        if fault is Fault.REQUEST_LOST:
            raise UnreachableError("it does not answer in time")
        answer = self._delivered(request)
        if request.path == RELAY:
            self._book.handed_back(request.body, answer)
        if fault is Fault.COMES_TWICE:
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
    """Return an answer as the agent's connection gives it."""
    busy: Any = answer.headers.get("retry-after")
    return Reply(answer.status, answer.body, None if busy is None else int(busy))
