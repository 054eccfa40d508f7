"""Connections without requests do not silence an agent's API, and with it its relaying."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kattila_agent.peer_api.connections import Limits
from support.agent_api import Node, running_node
from support.agent_folder import PSK, keep_id, keep_ring
from support.agent_process import AGENT, Daemon
from support.crowd import Crowd
from support.knot import running_knot
from support.netns import new_namespace
from support.waiting import PATIENCE_SECONDS, wait_for

# The agent once closed idle connections after 60 s. An honest client waits less.
HONEST_SECONDS = 30.0
# More than the agent keeps, and than wait in the kernel's queue.
MANY = 600
LIMITS = Limits()
UNFINISHED = {
    "nothing": b"",
    "half a head": b"GET /status/healthcheck HTTP/1.1\r\nHost: x\r\nX-",
    "half a body": b"POST /status/relay HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\n\r\n{",
    "a request that keeps the connection": b"GET /status/healthcheck HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running_knot({}) as knot, running_node(knot, tmp_path_factory.mktemp("node")) as running:
        yield running


def health_from(source: str, host: str, port: int) -> int:
    connection = http.client.HTTPConnection(host, port, HONEST_SECONDS, source_address=(source, 0))
    try:
        connection.request("GET", "/status/healthcheck")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
def test_idle_connections_of_one_neighbour_leave_the_api_to_others(node: Node, sent: bytes) -> None:
    with Crowd(("127.0.0.1", node.port), "127.0.0.2") as idle:
        adding = threading.Thread(target=idle.add, args=(MANY, sent), daemon=True)
        adding.start()
        wait_for(lambda: len(idle.connections) >= LIMITS.total, "the idle connections")
        assert health_from("127.0.0.3", "127.0.0.1", node.port) == 200
        # Also from the same address, which may be a hub or a machine behind NAT.
        assert health_from("127.0.0.2", "127.0.0.1", node.port) == 200
        adding.join(PATIENCE_SECONDS)
        assert len(idle.connections) == MANY
        wait_for(lambda: idle.ended() >= MANY - LIMITS.per_source, lambda: f"{idle.ended()} of {MANY} ended")


def test_idle_connections_of_many_neighbours_leave_the_api_to_others(node: Node) -> None:
    crowds = [Crowd(("127.0.0.1", node.port), f"127.0.1.{number}") for number in range(1, 21)]
    adding = [threading.Thread(target=each.add, args=(MANY // 20,), daemon=True) for each in crowds]
    for thread in adding:
        thread.start()
    try:
        wait_for(lambda: sum(len(each.connections) for each in crowds) >= LIMITS.total, "the idle connections")
        assert health_from("127.0.0.3", "127.0.0.1", node.port) == 200
    finally:
        for thread in adding:
            thread.join(PATIENCE_SECONDS)
        for each in crowds:
            each.__exit__(None, None, None)


def test_idle_connections_of_strangers_leave_the_api_to_neighbours(tmp_path: Path) -> None:
    keep_id(tmp_path)
    keep_ring(tmp_path, PSK)
    chosen = {
        "DNS": "kattila.example.org",
        "DNS_SERVER": "127.0.0.1:53",
        "MANAGER_URL": "http://127.0.0.1:9",
        "AGENT_LISTEN": "192.0.2.1:5087",
        "PEER_NETWORKS": "192.0.2.1/32",
    }
    with new_namespace() as here, new_namespace() as stranger:
        here.ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", stranger.name)
        for namespace, address in ((here, "192.0.2.1/24"), (stranger, "192.0.2.2/24")):
            namespace.ip("link", "set", "lo", "up")
            namespace.ip("address", "add", address, "dev", "veth0")
            namespace.ip("link", "set", "veth0", "up")
        daemon = Daemon(tmp_path, program=here.command(*AGENT), **chosen)
        try:
            daemon.wait_for_log("answers on 192.0.2.1:5087")
            with stranger.entered(), Crowd(("192.0.2.1", 5087), "192.0.2.2") as idle:
                idle.add(LIMITS.total)
                with here.entered():
                    assert health_from("192.0.2.1", "192.0.2.1", 5087) == 200
                # A stranger may still see whether the agent is healthy.
                assert health_from("192.0.2.2", "192.0.2.1", 5087) == 200
                wait_for(lambda: idle.ended() >= LIMITS.total - LIMITS.foreign, lambda: f"{idle.ended()} ended")
        finally:
            daemon.process.terminate()
            daemon.process.wait(PATIENCE_SECONDS)
