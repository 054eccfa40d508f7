"""A machine of the simulation: its disk, its boots, its clock, and the real agent while it runs."""

from __future__ import annotations

import random
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, cast

from kattila_agent import config
from kattila_agent.compose import Agent
from kattila_agent.daemon import Loop
from kattila_agent.identity import Identity
from kattila_agent.outbound.http.clients import BUDGET, PEER, REGISTER, RELAY, AgentClient, Clients
from kattila_agent.outbound.http.connection import Connection, Connections, Page, Reply, UnreachableError
from kattila_agent.outbound.http.transport import MakeBody
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.collect import Inputs
from kattila_agent.sampling.measurement import Measurement
from kattila_agent.spool import ledger, sample_file
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile, StoredRing
from kattila_protocol import envelope
from kattila_protocol.report import Interface, System, Telemetry, WireguardInterface, WireguardPeer
from support.reports import RING
from support.world.book import Book, Measured, label_of, nonce_of, tick_of
from support.world.network import MANAGER, Network, Request, as_reply
from support.world.wsgi import Answer, call

INTERVAL_SECONDS = 30
# 2025-10-09.
BEGAN_AT = 1_760_000_000_000
# An agent prefers the faster of two relays with the same distance.
MAX_QUERY_SECONDS = 0.002


class KilledError(BaseException):
    """The process of this machine got a SIGKILL; the agent must not catch this."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.name)
        self.node = node


@dataclass(frozen=True)
class Disk:
    """A copy of a machine's state folder, and the measurements that it must account for."""

    node: Node
    folder: Path
    owed: tuple[str, ...]


@dataclass(frozen=True)
class Shared:
    """The parts that all machines share: the true time in seconds, randomness, the network, and the book."""

    now: Callable[[], float]
    take_time: Callable[[float], None]
    chance: random.Random
    network: Network
    book: Book
    numbers: Iterator[int]


class Node:
    """A machine; `peers` are the addresses behind its tunnels."""

    def __init__(self, number: int, folder: Path, shared: Shared, settings: Mapping[str, str]) -> None:
        self.name, self.address = f"node-{number}", f"198.51.100.{number}"
        self.folder, self._shared, self._number = folder, shared, number
        folder.mkdir()
        self.settings = {"STATE_DIR": str(folder), "MANAGER_URL": f"http://{MANAGER}:5086", **settings}
        self._boots, self._booted_at = 0, 0.0
        self.peers: tuple[str, ...] = ()
        # The error of the wall clock (ms).
        self.offset = 0
        # The measurements that this disk must account for: each is delivered, in the spool, or counted as dropped.
        self.owed: list[str] = []
        self._measurements = count(1)
        # The number of steps (clock readings, random numbers, messages) until the process is killed; None: never.
        self.steps_left: int | None = None
        # Whether its ticks may fall, because its counters were damaged.
        self.may_count_anew = False
        # The tick and the MAC of the previous message, by agent id.
        self._last_ticks: dict[str, tuple[int, str]] = {}
        # Whether a cycle is in progress, in which only the newest measurement is sent.
        self._is_reporting = False
        self.starts = 0
        self.on_death: Callable[[], None] = lambda: None
        self.loop: Loop | None = None
        self.agent: Agent | None = None

    @property
    def boot_id(self) -> str:
        return str(uuid.UUID(int=(self._number << 64) + self._boots + (4 << 76)))

    @property
    def agent_id(self) -> str:
        return (self.folder / "agent_id.txt").read_text().strip()

    def clock(self) -> int:
        """Return the time of the wall clock (ms UTC)."""
        return max(0, BEGAN_AT + round(1000 * self._shared.now()) + self.offset)

    # --- power

    def start(self) -> None:
        """Start the agent in the current boot."""
        ring = RingFile(self.folder / "ring.json")
        if not (self.folder / "ring.json").exists():
            ring.update(lambda _: StoredRing(RING, BEGAN_AT, BEGAN_AT))
        settings = config.read(None, self.settings, self.folder)
        runtime = self._runtime()
        keys = Keys(ring, lambda: (), runtime.share)
        identity = Identity(self.folder, runtime.new_id)
        self.agent = Agent(settings, runtime, identity, keys, self._clients(), self._measure)
        self.loop = Loop(runtime, keys, self.agent.reporter, self.agent.draining, settings.interval_seconds)
        loop = self.loop
        app = self.agent.api(on_reset=lambda: loop.request(loop.hurry)).app()
        # An exception fails the test instead of becoming an answer with status 500.
        app.catchall = False
        self.starts += 1
        self._shared.network.hosts[self.address] = lambda request: self._serve(app, request)

    def kill(self) -> None:
        """Kill the process."""
        if self.agent is not None:
            self.agent.spool.close()
        self.agent = self.loop = self.steps_left = None
        self._shared.network.hosts.pop(self.address, None)
        if self.owed and self.owed[-1] not in self._shared.book.sent and self.owed[-1] not in self.waiting():
            # Killed before the measurement was on the disk.
            self.owed.pop()

    def die(self) -> None:
        """Kill the process, and let systemd restart it."""
        self.kill()
        self.on_death()

    def boot(self) -> None:
        """Reboot the machine, without starting the agent."""
        self.kill()
        self._boots += 1
        self._booted_at = self._shared.now()

    # --- the disk

    def waiting(self) -> dict[str, int]:
        """Return the samples in the spool: numbers by label."""
        found = {}
        for path in sorted((self.folder / "spool").glob("[0-9]" * 16)):
            number = int(path.name)
            found[label_of(sample_file.parse(number, path.read_bytes()).telemetry)] = number
        return found

    def dropped(self) -> int:
        """Return the number of samples that this disk counts as dropped."""
        file = self.folder / "spool" / "ledger.json"
        return ledger.parse(file.read_bytes()).dropped if file.exists() else 0

    def copy_disk(self, to: Path) -> Disk:
        """Copy the state folder; the agent must not run."""
        shutil.copytree(self.folder, to)
        return Disk(self, to, tuple(self.owed))

    def put_clone(self, disk: Disk) -> None:
        """Replace the state folder by that of another machine, which stays accountable for its measurements."""
        self.put_disk(disk)
        self.owed = []

    def put_disk(self, disk: Disk) -> None:
        """Replace the state folder by a saved copy."""
        shutil.rmtree(self.folder)
        shutil.copytree(disk.folder, self.folder)
        self.owed, self._last_ticks = list(disk.owed), {}

    # --- the daemon's threads

    def report(self) -> None:
        """Run one cycle of the agent."""
        assert self.loop is not None
        self._is_reporting = True
        try:
            self.loop.report()
        finally:
            self._is_reporting = False
        assert self.loop.failures.failing == (), "the cycle failed"

    def _serve(self, app: Callable[..., Any], request: Request) -> Answer:
        try:
            self._step()
            return call(
                app,
                request.method,
                request.path,
                request.source,
                request.body,
                parameters=request.parameters,
                headers=request.headers,
            )
        except KilledError as killed:
            if killed.node is not self:
                raise
            self.die()
            raise UnreachableError("the connection was closed before an answer came") from None

    # --- the environment of the agent

    def _step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left <= 0:
                raise KilledError(self)

    def _runtime(self) -> Runtime:
        shared = self._shared

        def stepping(value: Callable[[], Any]) -> Callable[[], Any]:
            def read() -> Any:
                self._step()
                return value()

            return read

        return Runtime(
            now=stepping(self.clock),
            monotonic=stepping(shared.now),
            since_boot_ms=stepping(lambda: round(1000 * (shared.now() - self._booted_at))),
            nonce=lambda: f"{shared.chance.getrandbits(128):032x}",
            new_id=lambda: str(uuid.UUID(int=next(shared.numbers) + (0xA << 124))),
            share=shared.chance.random,
        )

    def _measure(self, inputs: Inputs) -> Measurement:
        label = f"{self.name}-{next(self._measurements)}"
        self._shared.book.measured[label] = Measured(self._shared.now(), self.boot_id)
        self.owed.append(label)
        return Measurement(
            replace(self._telemetry(), system=_system(self.name, label)),
            inputs.runtime.now(),
            self.boot_id,
            inputs.runtime.since_boot_ms(),
        )

    def _telemetry(self) -> Telemetry:
        address = f"02:00:00:00:00:{self._number:02x}"
        links = (
            Interface(1, "eth0", None, ("UP",), "UP", 1500, address, (f"203.0.113.{self._number}/24",)),
            Interface(2, "wg0", "wireguard", ("UP",), "UP", 1420, None, (f"{self.address}/24",)),
        )
        peers = tuple(WireguardPeer(peer, None, (f"{peer}/32",), 1, 0, 0, 0, False) for peer in self.peers)
        return Telemetry(None, links, wireguard=(WireguardInterface("wg0", self.name, 51820, 0, peers),))

    def _clients(self) -> Clients:
        return Clients(
            manager=cast(Connection, _ToManager(self)),
            forwarding=cast(Connections, _Forwarding(self)),
            agents=_ToAgents(self),
        )

    def post(self, target: str, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a request; the process may be killed before it is sent or before the answer arrives."""
        self._step()
        self._check_order(path, body)
        answer = self._shared.network.deliver(Request(self.address, target, "POST", path, body, headers=headers or {}))
        self._step()
        return as_reply(answer)

    def _check_order(self, path: str, body: bytes) -> None:
        """Check that ticks increase, and that the newest measurement is sent before the spooled ones."""
        if path == REGISTER or (parts := envelope.parse(body)).relay_path:
            return
        agent_id, tick = tick_of(parts.data)
        before = self._last_ticks.get(agent_id, (0, ""))
        # The same message may go to another recipient, signed again with the time of that attempt.
        nonce = nonce_of(parts.data)
        is_next = tick > before[0] or (tick, nonce) == before
        assert is_next or self.may_count_anew, f"tick {tick} comes after tick {before[0]}"
        self._last_ticks[agent_id] = tick, nonce
        newest, book = self.owed[-1], self._shared.book
        if self._is_reporting:
            assert label_of(parts.data) == newest, "a spooled sample was sent before the newest"
        else:
            assert newest in book.stored, "a spooled sample was sent although the newest has not arrived"

    def query(self, address: str, parameters: Mapping[str, str]) -> Page:
        """Query another machine's agent."""
        self._shared.take_time(MAX_QUERY_SECONDS * self._shared.chance.random())
        answer = self._shared.network.deliver(Request(self.address, address, "GET", PEER, parameters=parameters))
        return Page(answer.status, "", answer.body)


@dataclass(frozen=True)
class _ToManager:
    """Replaces the keep-alive connection to the manager."""

    node: Node
    address = MANAGER

    def post(self, path: str, body: MakeBody, *, total_seconds: float | None = None) -> Reply:
        return self.node.post(MANAGER, path, body())


@dataclass(frozen=True)
class _Forwarding:
    """In the place of the connections for the reports of others."""

    node: Node

    def post(self, path: str, body: bytes, total_seconds: float) -> Reply:
        return self.node.post(MANAGER, path, body)


class _ToAgents(AgentClient):
    """Requests to the other machines of the world."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node

    def query(self, address: str, parameters: Mapping[str, str]) -> Page:
        return self.node.query(address, parameters)

    def relay(self, address: str, body: bytes | MakeBody, seconds: float) -> Reply:
        content = body if isinstance(body, bytes) else body()
        return self.node.post(address, RELAY, content, {BUDGET: str(round(seconds * 1000))})


def _system(name: str, label: str) -> System:
    return System(
        hostname=name,
        os="",
        kernel="",
        machine="",
        uptime_seconds=0,
        load=(0, 0, 0),
        cpus=1,
        memory_total=0,
        memory_available=0,
        agent_version="0",
        labels={"measurement": label},
    )
