"""Relays that lie about reports: these count as undelivered and go elsewhere, and nothing is lost."""

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
    """Read the report that is posted, and return the verdict on it that only the manager should give."""
    body = handler.rfile.read(int(handler.headers["Content-Length"]))
    members = canonical.parse_object(envelope.parse(body).data)
    return verdict.seal(Verdict(ACCEPTED, members["agent_id"], nonce or members["nonce"], now_ms(), 0), key)


def says_so_itself(handler: BaseHTTPRequestHandler) -> None:
    """Answer what the manager would, under nobody's key."""
    sibling.send(handler, accepted(handler, key=FOREIGN_KEY))


def answers_garbage(handler: BaseHTTPRequestHandler) -> None:
    """Answer what is not even HTTP."""
    accepted(handler)
    handler.wfile.write(bytes(range(256)) * 16)


def tells_of_another(handler: BaseHTTPRequestHandler) -> None:
    """Hand back a verdict that is signed, but on another message, as one that was captured."""
    sibling.send(handler, accepted(handler, nonce=uuid.uuid4().hex))


def truncates(handler: BaseHTTPRequestHandler) -> None:
    """Break off in the middle of a signed verdict."""
    said = accepted(handler)
    sibling.send(handler, said[: len(said) // 2], Content_Length=str(len(said)))


def comes_late(handler: BaseHTTPRequestHandler) -> None:
    """Answer after a minute, when nobody waits any more."""
    said = accepted(handler)
    time.sleep(LATE_SECONDS)
    sibling.send(handler, said)


def drips(handler: BaseHTTPRequestHandler) -> None:
    """Answer a byte in each second, so that it is never silent for long."""
    said = accepted(handler)
    sibling.send(handler, b"", Content_Length=str(len(said)))
    for byte in said:
        handler.wfile.write(bytes([byte]))
        time.sleep(1)


LIES: dict[str, Behaviour] = {
    lie.__name__.replace("_", "-"): lie
    for lie in (says_so_itself, answers_garbage, tells_of_another, truncates, comes_late, drips)
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A node is cut off among liars; its one honest neighbour is a relay farther than they say they are.

    The liars have the PSK and claim to reach the manager, but never speak to it: whatever they say, nothing arrived.
    """
    tunnels = [(VICTIM, name) for name in (*LIES, HONEST)] + [(HONEST, GATE)]
    names = [GATE, HONEST, VICTIM, *LIES]
    with new_mesh(tmp_path_factory.mktemp("liars"), names, tunnels) as mesh, ExitStack() as stack:
        handed: set[str] = set()
        for name, lie in LIES.items():
            with mesh[name].namespace.entered():
                on_post = noting(handed, name, lie)
                says = sibling.answers_as(KEY, str(uuid.uuid4()))
                stack.enter_context(sibling.serving(says, "0.0.0.0", AGENT_PORT, on_post=on_post))
        mesh[HONEST].block()
        mesh[VICTIM].block()
        mesh.manager.start()
        for name in (GATE, HONEST, VICTIM):
            mesh[name].start()
        mesh.wait_until(lambda: len(handed) == len(LIES))
        yield mesh


def noting(handed: set[str], name: str, lie: Behaviour) -> Behaviour:
    def note_and_lie(handler: BaseHTTPRequestHandler) -> None:
        handed.add(name)
        lie(handler)

    return note_and_lie


def test_what_liars_were_handed_arrives_once_and_through_the_honest_one(mesh: Mesh) -> None:
    last_lied_about = mesh[VICTIM].last_sample
    mesh.has_all(VICTIM, last_lied_about + 1)
    assert {tuple(path) for path in mesh.paths(VICTIM).values()} == {(HONEST, GATE)}
