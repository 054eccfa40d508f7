"""Relays that lie about a report: it counts as undelivered, takes another path, and is not lost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler

import pytest

from kattila_protocol import canonical, envelope, verdict
from kattila_protocol.signing import Key
from kattila_protocol.verdict import ACCEPTED, Verdict
from support import sibling
from support.manager import now_ms
from support.mesh import AGENT_PORT, Mesh, new_mesh
from support.reports import FOREIGN_KEY, KEY
from support.sibling import Behaviour

LATE_SECONDS = 60
GATE, HONEST, VICTIM = "gate", "honest", "victim"


def accepted(handler: BaseHTTPRequestHandler, nonce: str = "", key: Key = KEY) -> bytes:
    """Read the report in a request, and return a verdict that only the manager may give."""
    body = handler.rfile.read(int(handler.headers["Content-Length"]))
    members = canonical.parse_object(envelope.parse(body).data)
    return verdict.seal(Verdict(ACCEPTED, members["agent_id"], nonce or members["nonce"], now_ms(), 0), key)


def signs_itself(handler: BaseHTTPRequestHandler) -> None:
    """Answer like the manager, but sign with a foreign key."""
    sibling.send(handler, accepted(handler, key=FOREIGN_KEY))


def answers_garbage(handler: BaseHTTPRequestHandler) -> None:
    """Answer with bytes that are not HTTP."""
    accepted(handler)
    handler.wfile.write(bytes(range(256)) * 16)


def returns_another_verdict(handler: BaseHTTPRequestHandler) -> None:
    """Answer with a captured verdict on another message."""
    sibling.send(handler, accepted(handler, nonce=uuid.uuid4().hex))


def truncates(handler: BaseHTTPRequestHandler) -> None:
    """Send half of a signed verdict."""
    content = accepted(handler)
    sibling.send(handler, content[: len(content) // 2], Content_Length=str(len(content)))


def answers_late(handler: BaseHTTPRequestHandler) -> None:
    """Answer after a minute, when the client has closed the connection."""
    content = accepted(handler)
    time.sleep(LATE_SECONDS)
    sibling.send(handler, content)


def drips(handler: BaseHTTPRequestHandler) -> None:
    """Answer with one byte per second."""
    content = accepted(handler)
    sibling.send(handler, b"", Content_Length=str(len(content)))
    for byte in content:
        handler.wfile.write(bytes([byte]))
        time.sleep(1)


LIES: dict[str, Behaviour] = {
    lie.__name__.replace("_", "-"): lie
    for lie in (signs_itself, answers_garbage, returns_another_verdict, truncates, answers_late, drips)
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Cut a node off among liars; its only honest neighbour is farther from the manager than the liars claim to be.

    The liars have the PSK and claim to reach the manager, but never forward a report.
    """
    tunnels = [(VICTIM, name) for name in (*LIES, HONEST)] + [(HONEST, GATE)]
    names = [GATE, HONEST, VICTIM, *LIES]
    with new_mesh(tmp_path_factory.mktemp("liars"), names, tunnels) as mesh, ExitStack() as stack:
        lied: set[str] = set()
        for name, lie in LIES.items():
            with mesh[name].namespace.entered():
                on_post = recording(lied, name, lie)
                behave = sibling.answers_as(KEY, str(uuid.uuid4()))
                stack.enter_context(sibling.serving(behave, "0.0.0.0", AGENT_PORT, on_post=on_post))
        mesh[HONEST].block()
        mesh[VICTIM].block()
        mesh.manager.start()
        for name in (GATE, HONEST, VICTIM):
            mesh[name].start()
        mesh.wait_until(lambda: len(lied) == len(LIES))
        yield mesh


def recording(lied: set[str], name: str, lie: Behaviour) -> Behaviour:
    def record_and_lie(handler: BaseHTTPRequestHandler) -> None:
        lied.add(name)
        lie(handler)

    return record_and_lie


def test_reports_to_liars_arrive_once_through_the_honest_neighbour(mesh: Mesh) -> None:
    last_lied_about = mesh[VICTIM].last_sample
    mesh.has_all(VICTIM, last_lied_about + 1)
    assert {tuple(path) for path in mesh.paths(VICTIM).values()} == {(HONEST, GATE)}
