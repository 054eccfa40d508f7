"""A small HTTP server in the place of the manager: it verifies messages and answers with signed verdicts.

It knows one PSK, keeps no state, and can be set to give any answer. The end-to-end tests run the real manager.
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
from kattila_protocol.members import build
from kattila_protocol.report import Telemetry
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key
from kattila_protocol.verdict import ACCEPTED, Verdict
from support.waiting import PATIENCE_SECONDS, wait_for

UPDATES = "/status/updates"
REGISTER = "/status/register"


@dataclass(frozen=True)
class Request:
    """An authentic message: its signed members, the key, and its arrival (monotonic seconds)."""

    path: str
    members: dict[str, Any]
    key: Key
    body: bytes
    arrived_at: float

    @property
    def telemetry(self) -> dict[str, Any]:
        """The telemetry of a report, with the members that were left out because they have their default."""
        found: dict[str, Any] = json.loads(canonical.encode(build(Telemetry, self.members["telemetry"])))
        return found


# Status and body, or None to close the connection without an answer.
Answer = tuple[int, bytes] | None
Rule = Callable[[Request], Answer]


@dataclass
class StandIn:
    """The running server: the messages it received, and the rules for its next answers."""

    psk: bytes
    url: str = ""
    received: list[Request] = field(default_factory=list)
    rules: dict[str, list[Rule]] = field(default_factory=lambda: {UPDATES: [], REGISTER: []})

    def next_answer(self, path: str, *rules: Rule) -> None:
        """Answer the next messages on `path` by these rules, one each; later ones are accepted."""
        self.rules[path] += rules

    def reports(self) -> list[Request]:
        """Return the reports received so far."""
        return [request for request in self.received if request.path == UPDATES]

    def registrations(self) -> list[Request]:
        """Return the registrations received so far."""
        return [request for request in self.received if request.path == REGISTER]

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds."""
        wait_for(condition, lambda: f"more than the {len(self.received)} messages received")

    def wait_for_reports(self, count: int) -> list[Request]:
        """Wait until `count` reports have arrived, and return them."""
        self.wait_for(lambda: len(self.reports()) >= count)
        return self.reports()

    def take(self, path: str, body: bytes) -> Answer:
        """Verify a message and answer it by the next rule."""
        ring = Ring().with_current(self.psk, 0)
        try:
            if path == UPDATES:
                parts = envelope.parse(body)
                key = envelope.verify(parts, ring, "manager")
                members = canonical.parse_object(parts.data)
            else:
                request_sent, key = registration.unseal(body, ring)
                members = canonical.parse_object(canonical.encode(request_sent))
        except Refusal as refusal:
            return refusal.status, json.dumps(refusal.members).encode()
        request = Request(path, members, key, body, time.monotonic())
        self.received.append(request)
        rules = self.rules[path]
        return (rules.pop(0) if rules else accept())(request)


def accept(**changes: Any) -> Rule:
    """Return a rule that accepts, with these members of the verdict changed."""
    return lambda request: (200, verdict.seal(verdict_on(request, ACCEPTED, **changes), request.key))


def refuse(refusal: Refusal, **changes: Any) -> Rule:
    """Return a rule that refuses with a signed verdict."""
    return lambda request: (
        refusal.status,
        verdict.seal(verdict_on(request, refusal.kind, detail=refusal.detail, **changes), request.key, refusal),
    )


def unsigned(status: int = 200, body: bytes = b'{"outcome":"accepted"}') -> Rule:
    """Return a rule that answers without a signature."""
    return lambda request: (status, body)


def signed_with(psk: bytes) -> Rule:
    """Return a rule that accepts, but signs with another key."""
    return lambda request: (200, verdict.seal(verdict_on(request, ACCEPTED), Key.from_psk(psk)))


def verdict_on(request: Request, outcome: str, **changes: Any) -> Verdict:
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
        """Ignore the error: an agent that stops or refuses an answer closes its connection."""


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
