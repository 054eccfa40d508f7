"""A discrete-event simulation of a fleet with its manager, driven by one clock.

The events are the cycles, deliveries and peer queries of each agent, at the times that its own loop computes.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import combinations, count
from pathlib import Path

from kattila_agent.daemon import JITTER, next_due
from kattila_agent.outbound.discovery.queries import CHECK_SECONDS, PACE_SECONDS
from kattila_agent.outbound.http.clients import UPDATES
from kattila_agent.outbound.http.connection import UnreachableError
from kattila_protocol import reset
from support.reports import KEY
from support.world.book import Book
from support.world.manager import Manager
from support.world.network import MANAGER, Network, Request
from support.world.node import BEGAN_AT, INTERVAL_SECONDS, KilledError, Node, Shared
from support.world.wsgi import Answer

# The delay after which systemd restarts an agent.
RESTART_SECONDS = 2.0


class World:
    """Machines 1 to `size` in a full mesh of tunnels, and the manager."""

    def __init__(self, folder: Path, size: int, *, seed: int = 0, empty: Path | None = None, **settings: str) -> None:
        self.time = 0.0
        self.chance = random.Random(seed)
        self.book = Book(lambda: self.time)
        self.network = Network(self.book)
        (folder / "manager").mkdir()
        self.manager = Manager(folder / "manager", lambda: BEGAN_AT + round(1000 * self.time), empty)
        self.start_manager()
        self.shared = Shared(lambda: self.time, self.take_time, self.chance, self.network, self.book, count(1))
        self.nodes = [Node(n, folder / f"node-{n}", self.shared, settings) for n in range(1, size + 1)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._seen = 0
        # The pause of an idle discoverer. A longer one speeds up the simulation.
        self.look_seconds = CHECK_SECONDS
        for node in self.nodes:
            node.on_death = partial(self.start, node, RESTART_SECONDS)
        self.connect(*combinations(range(size), 2))

    def connect(self, *tunnels: tuple[int, int]) -> None:
        """Replace all tunnels by these."""
        for number, node in enumerate(self.nodes):
            others = [b if a == number else a for a, b in tunnels if number in (a, b)]
            node.peers = tuple(self.nodes[other].address for other in others)

    def close(self) -> None:
        """Stop all agents and the manager."""
        for node in self.nodes:
            node.kill()
        self.manager.close()

    # --- time

    def take_time(self, seconds: float) -> None:
        """Let the current operation take some time; events that become due meanwhile run afterwards."""
        self.time += seconds

    def at(self, time: float, event: Callable[[], None]) -> None:
        """Schedule an event."""
        heapq.heappush(self._events, (time, next(self._order), event))

    def run(self, seconds: float) -> None:
        """Run all events of the next seconds."""
        until = self.time + seconds
        while self._events and self._events[0][0] <= until:
            time, _, event = heapq.heappop(self._events)
            self.time = max(self.time, time)
            event()
        self.time = max(self.time, until)

    def start_all(self) -> None:
        """Start all agents, spread over one interval."""
        for node in self.nodes:
            self.start(node, self.chance.random() * INTERVAL_SECONDS)

    def stop_manager(self) -> None:
        """Let the manager's machine refuse all connections."""
        self.network.hosts.pop(MANAGER, None)

    def start_manager(self) -> None:
        """Let the manager answer again."""
        self.network.hosts[MANAGER] = self._manager

    def start(self, node: Node, after: float = 0.0) -> None:
        """Schedule the start of an agent, unless it runs by then."""

        def begin() -> None:
            if node.agent is None:
                node.start()
                self._cycle(node, node.starts, self.time)
                self._query_peers(node, node.starts)

        self.at(self.time + after, begin)

    def reset(self, node: Node) -> None:
        """Reset a running agent, as its operator does on the machine."""
        request_body = reset.seal(reset.Reset(node.agent_id, f"{self.chance.getrandbits(128):032x}", node.clock()), KEY)
        request = Request("127.0.0.1", node.address, "POST", "/status/reset", request_body)
        with suppress(UnreachableError):
            if self.network.hosts[node.address](request).status == 200:
                node.owed.clear()
                self._hurry(node)

    def _hurry(self, node: Node) -> None:
        if node.loop is not None and node.loop.hurry.is_set():
            node.loop.hurry.clear()
            self._do(node, node.report)
            self._plan_draining(node, node.starts)

    def _lives(self, node: Node, start: int) -> bool:
        return node.agent is not None and node.starts == start

    def _cycle(self, node: Node, start: int, due: float) -> None:
        if not self._lives(node, start):
            return
        self._do(node, node.report)
        self._plan_draining(node, start)
        after = next_due(due, self.time, INTERVAL_SECONDS)
        jitter = INTERVAL_SECONDS * JITTER * (2 * self.chance.random() - 1)
        self.at(after + jitter, lambda: self._cycle(node, start, after))

    def _plan_draining(self, node: Node, start: int) -> None:
        due = node.agent.draining.due_at if node.agent else None
        if due is not None and self._lives(node, start):
            self.at(due, lambda: self._drain(node, start, due))

    def _drain(self, node: Node, start: int, due: float) -> None:
        if self._lives(node, start) and node.loop and node.agent and node.agent.draining.due_at == due:
            self._do(node, node.loop.drain)
            self._plan_draining(node, start)

    def _query_peers(self, node: Node, start: int) -> None:
        if not self._lives(node, start) or node.agent is None:
            return
        discoverer, queried = node.agent.discoverer, False

        def query_next() -> None:
            nonlocal queried
            address = discoverer.due()
            if address is not None:
                discoverer.query_and_note(address)
                queried = True

        self._do(node, query_next)
        pause = PACE_SECONDS * (1 + self.chance.random() / 2) + (0 if queried else self.look_seconds)
        self.at(self.time + pause, lambda: self._query_peers(node, start))

    def _do(self, node: Node, action: Callable[[], object]) -> None:
        try:
            action()
        except KilledError as killed:
            assert killed.node is node
            node.die()

    # --- the manager

    def _manager(self, request: Request) -> Answer:
        answer = self.manager.post(request.path, request.body, request.source)
        if request.path == UPDATES:
            self.book.record_verdict(request.body, answer)
        return answer

    # --- invariants

    def check(self) -> None:
        """Compare the disks, the book and the database."""
        for row in self.manager.stored(self._seen):
            self._seen = row.row
            label = self.book.label_at(row.agent_id, row.sample)
            late = self.book.stored[label].late
            assert late is None or late == row.late, f"{label} is marked {row.late}"
        for node in self.nodes:
            self.check_disk(node)

    def check_disk(self, node: Node) -> None:
        """Check that every lost sample of this disk is counted as dropped."""
        waiting = node.waiting()
        known = waiting.keys() | self.book.stored.keys()
        missing = [label for label in node.owed if label not in known]
        assert len(missing) <= node.dropped(), f"lost: {missing}; counted as dropped: {node.dropped()}"

    @property
    def backlog(self) -> int:
        """The number of samples in all spools."""
        return sum(len(node.waiting()) for node in self.nodes)
