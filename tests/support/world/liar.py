"""A liar in the simulation: a PSK holder who knows an agent's id, boot and hardware, and reports under its id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from kattila_agent.outbound.http.clients import RELAY, UPDATES
from kattila_protocol import canonical, envelope, verdict
from kattila_protocol.errors import Refusal
from kattila_protocol.verdict import ACCEPTED, Verdict
from support import reports
from support.reports import KEY
from support.world.network import Request
from support.world.node import INTERVAL_SECONDS, Node
from support.world.world import World
from support.world.wsgi import Answer

# No honest agent reaches this number in a thousand years.
ABSURD = 10**12


def numbers(node: Node) -> tuple[int, int]:
    """Return the last tick and sample of a machine."""
    counters = json.loads((node.folder / "counters.json").read_text())
    return counters["tick"], counters["sample"]


def forge(world: World, node: Node, tick: int, sample: int, *, boot_id: str = "", **changes: Any) -> str:
    """Report under the id of machine 1, and return the outcome."""
    sender = reports.Node(node.agent_id, boot_id or node.boot_id, "forged", ("02:00:00:00:00:01",))
    nonce = f"{world.chance.getrandbits(128):032x}"
    content = replace(reports.report(sender, sample, node.clock(), tick=tick, nonce=nonce), **changes)
    answer = world.manager.post(UPDATES, reports.sealed(content), "203.0.113.99")
    return str(json.loads(answer.body)["data"]["outcome"])


@contextmanager
def lying_relay(world: World, relay: Node, refusal: Refusal | None, tick: int, sample: int) -> Iterator[list[Request]]:
    """Let a machine answer reports with a verdict that only the manager may give; yield the reports."""
    honest, lied_about = world.network.hosts[relay.address], []

    def lie(request: Request) -> Answer:
        if request.path != RELAY:
            return honest(request)
        lied_about.append(request)
        return _forged_answer(request, refusal, tick, sample)

    world.network.hosts[relay.address] = lie
    yield lied_about
    world.network.hosts[relay.address] = honest


def assert_all_arrives(world: World, node: Node) -> None:
    """Check that a machine soon has delivered all its measurements, and that its numbers are possible ones."""
    world.run(6 * INTERVAL_SECONDS)
    assert node.agent is not None
    assert max(numbers(node)) < ABSURD
    # The newest one may have been measured just now.
    assert not set(node.owed[:-1]) - world.book.stored.keys()
    assert node.dropped() == 0


def _forged_answer(request: Request, refusal: Refusal | None, tick: int, sample: int) -> Answer:
    members = canonical.parse_object(envelope.parse(request.body).data)
    kind = refusal.kind if refusal else ACCEPTED
    given = Verdict(kind, members["agent_id"], members["nonce"], 0, 0, tick, sample)
    return Answer(refusal.status if refusal else 200, {}, verdict.seal(given, KEY, refusal))
