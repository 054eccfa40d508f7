"""Answers of the manager get lost after it stored a report: each report is stored once, and no spool keeps one.

The agents are real, but run without the pauses of the daemon. Sockets, disks and manager are real.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from pathlib import Path

import pytest

from kattila_agent import config
from kattila_agent.compose import Agent
from kattila_agent.identity import Identity
from kattila_agent.outbound.http.clients import Clients
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.collect import Inputs
from kattila_agent.sampling.measurement import Measurement
from kattila_keys.dns_server import DnsError, TxtRecords
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile
from support.agent_folder import keep_id, keep_ring
from support.counts import LOST_ANSWERS
from support.cutting_proxy import CuttingProxy, running_proxy
from support.manager import Manager, now_ms, running_manager
from support.reports import PSK, node, telemetry
from support.waiting import PATIENCE_SECONDS, join_all

AGENTS = 4
# For each of them, on a slow machine.
SECONDS_EACH = 2


class DrivenAgent:
    """An agent that runs as fast as it can; `failure` is the exception that ended it."""

    def __init__(self, number: int, folder: Path, url: str, chance: random.Random) -> None:
        """Create its folder with an id and a cached key ring."""
        folder.mkdir()
        self.agent_id = node(number).agent_id
        keep_id(folder, self.agent_id)
        keep_ring(folder, PSK)
        runtime = Runtime(
            now=now_ms,
            monotonic=time.monotonic,
            since_boot_ms=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
            nonce=lambda: uuid.uuid4().hex,
            new_id=lambda: str(uuid.uuid4()),
            share=chance.random,
        )
        settings = config.read(None, {"DNS": "kattila.example.org", "MANAGER_URL": url}, folder)
        self.identity = Identity(folder, runtime.new_id)
        keys = Keys(RingFile(folder / "ring.json"), no_dns, chance.random)

        def measure(_inputs: Inputs) -> Measurement:
            return Measurement(telemetry(node(number)), now_ms(), node(number).boot_id, runtime.since_boot_ms())

        self.agent = Agent(settings, runtime, self.identity, keys, Clients.of(url), measure)
        self.failure: BaseException | None = None

    @property
    def waiting(self) -> tuple[int, ...]:
        """The numbers of the samples in its spool."""
        return self.agent.spool.numbers()

    def report_until_all_arrived(self, proxy: CuttingProxy, deadline: float) -> None:
        """Report and deliver the spool, until enough answers were lost and the spool is empty."""
        try:
            while (proxy.cuts < LOST_ANSWERS or self.waiting) and time.monotonic() < deadline:
                if self.agent.reporter.cycle():
                    self.agent.draining.begin()
                while self.agent.draining.due_at is not None:
                    self.agent.draining.step()
        except BaseException as error:  # reported by the test: a thread cannot fail it
            self.failure = error


def no_dns() -> TxtRecords:
    raise DnsError("no resolver")


@pytest.fixture
def chance() -> random.Random:
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")  # pytest shows it when the test fails
    return random.Random(seed)


def test_lost_answers_duplicate_no_report_and_leave_no_sample(tmp_path: Path, chance: random.Random) -> None:
    with running_manager(tmp_path) as manager, running_proxy(manager.port, chance, LOST_ANSWERS) as proxy:
        agents = [
            DrivenAgent(number, tmp_path / f"agent-{number}", proxy.url, random.Random(chance.random()))
            for number in range(AGENTS)
        ]
        deadline = time.monotonic() + PATIENCE_SECONDS + LOST_ANSWERS * SECONDS_EACH
        threads = [
            threading.Thread(target=agent.report_until_all_arrived, args=(proxy, deadline), daemon=True)
            for agent in agents
        ]
        for thread in threads:
            thread.start()
        join_all(threads, 2 * PATIENCE_SECONDS + LOST_ANSWERS * SECONDS_EACH)
        assert [agent.failure for agent in agents] == [None] * AGENTS
        assert proxy.cuts == LOST_ANSWERS
        for agent in agents:
            assert agent.waiting == ()
            assert agent.agent.spool.waiting().dropped == 0
            assert stored(manager, agent.agent_id) == list(range(1, agent.identity.last().sample + 1))


def stored(manager: Manager, agent_id: str) -> list[int]:
    query = "SELECT sample FROM reports JOIN agents ON ref = agent_ref WHERE agent_id = ? ORDER BY sample"
    return [sample for (sample,) in manager.rows(query, agent_id)]
