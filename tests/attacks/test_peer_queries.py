"""A neighbour with the PSK that queries an agent again and again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kattila_agent.outbound.http.clients import PEER
from kattila_agent.peer_api.seen_nonces import MAX_NONCES
from kattila_protocol.peer import PeerQuery
from support.reports import KEY
from support.world.network import Request
from support.world.node import INTERVAL_SECONDS, Node
from support.world.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, 3)
    try:
        world.start_all()
        world.run(2 * INTERVAL_SECONDS)
        yield world
    finally:
        world.close()


def status_of_query(world: World, source: Node, target: Node) -> int:
    query = PeerQuery(source.agent_id, target.address, f"{world.chance.getrandbits(128):032x}", source.clock())
    parameters = query.parameters(KEY)
    return world.network.hosts[target.address](
        Request(source.address, target.address, "GET", PEER, parameters=parameters)
    ).status


def test_many_queries_of_one_neighbour_leave_an_agent_to_the_others(world: World) -> None:
    agent, flooding, honest = world.nodes
    for _ in range(MAX_NONCES):
        if status_of_query(world, flooding, agent) == 503:
            break
    assert status_of_query(world, honest, agent) == 200
