"""A small real HTTP server in the manager's place: it verifies what the agent sends and answers with signed verdicts.

It stands in only until the end-to-end tests run agent and manager against each other; it keeps no state beyond one
test, knows one PSK, and can be told to answer anything.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kattila_protocol import canonical, envelope, registration, verdict
from kattila_protocol.errors import Refusal
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key
from kattila_protocol.verdict import ACCEPTED, Verdict
from support.waiting import PATIENCE_SECONDS, wait_for

UPDATES = "/status/updates"
REGISTER = "/status/register"


@dataclass(frozen=True)
class Request:
    """One authentic message: the members that were signed, the key, and when it came (monotonic seconds)."""

    path: str
    members: dict[str, Any]
    key: Key
    body: bytes
    came_at: float


# Status and body, or None to close the connection without a word.
Answer = tuple[int, bytes] | None
Rule = Callable[[Request], Answer]


@dataclass
class StandIn:
    """The running server: what it received, and how it answers from now on."""

    psk: bytes
    url: str = ""
    received: list[Request] = field(default_factory=list)
    rules: dict[str, list[Rule]] = field(default_factory=lambda: {UPDATES: [], REGISTER: []})

    def next_answer(self, path: str, *rules: Rule) -> None:
        """Answer the next messages on `path` by these rules, one each, and accept again afterwards."""
        self.rules[path] += rules

    def reports(self) -> list[Request]:
        """Return the reports that came so far."""
        return [request for request in self.received if request.path == UPDATES]

    def registrations(self) -> list[Request]:
        """Return the registrations that came so far."""
        return [request for request in self.received if request.path == REGISTER]

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds."""
        wait_for(condition, lambda: f"something more than the {len(self.received)} messages received")

    def wait_for_reports(self, count: int) -> list[Request]:
        """Wait until so many reports came, and return them."""
        self.wait_for(lambda: len(self.reports()) >= count)
        return self.reports()

    def take(self, path: str, body: bytes) -> Answer:
        """Verify a message and answer it by the next rule."""
        ring = Ring().with_current(self.psk, 0)
        try:
            if path == UPDATES:
                cut = envelope.parse(body)
                key = envelope.verify(cut, ring, "manager")
                members = canonical.parse_object(cut.data)
            else:
                asked, key = registration.unseal(body, ring)
                members = canonical.parse_object(canonical.encode(asked))
        except Refusal as refusal:
            return refusal.status, json.dumps(refusal.members).encode()
        request = Request(path, members, key, body, time.monotonic())
        self.received.append(request)
        rules = self.rules[path]
        return (rules.pop(0) if rules else accept())(request)


def accept(**changes: Any) -> Rule:
    """Make a rule that accepts, with these members of the verdict changed."""
    return lambda request: (200, verdict.seal(said(request, ACCEPTED, **changes), request.key))


def refuse(refusal: Refusal, **changes: Any) -> Rule:
    """Make a rule that refuses with a signed verdict."""
    return lambda request: (
        refusal.status,
        verdict.seal(said(request, refusal.kind, detail=refusal.detail, **changes), request.key, refusal),
    )


def unsigned(status: int = 200, body: bytes = b'{"outcome":"accepted"}') -> Rule:
    """Make a rule that answers without a signature."""
    return lambda request: (status, body)


def signed_with(psk: bytes) -> Rule:
    """Make a rule that accepts, but signs with another key."""
    return lambda request: (200, verdict.seal(said(request, ACCEPTED), Key.from_psk(psk)))


def said(request: Request, outcome: str, **changes: Any) -> Verdict:
    """Return a verdict on a request."""
    members: dict[str, Any] = {
        "outcome": outcome,
        "agent_id": request.members["agent_id"],
        "nonce": request.members["nonce"],
        "manager_time": int(time.time() * 1000),
        "clock_offset": 0,
        "highest_tick": request.members.get("tick", 0),
        "highest_sample": request.members.get("sample", 0),
    }
    return Verdict(**(members | changes))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent: an agent that is stopped or refuses an answer closes its connection."""


@contextmanager
def running_stand_in(psk: bytes, *, port: int = 0) -> Iterator[StandIn]:
    """Run a server on loopback that knows this PSK."""
    stand_in = StandIn(psk)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = PATIENCE_SECONDS

        def do_POST(self) -> None:
            answer = stand_in.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            if answer is None:
                self.close_connection = True
                return
            status, body = answer
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = _Server(("127.0.0.1", port), Handler)
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
