"""Runs many honest agents in one process: the real agent, with a made-up measurement in place of the kernel's.

    PYTHONPATH=tests python -m support.siege.agents FOLDER FIRST LAST

The environment has the agents' settings. Agent N keeps its state in FOLDER/N and has the identity of `reports.node(N)`.
Commands arrive on standard input, one per line: "stop N", "start N" and "end"; each is answered by the same line.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from kattila_agent import config
from kattila_agent.compose import Agent
from kattila_agent.config import Config
from kattila_agent.daemon import Loop
from kattila_agent.identity import Identity
from kattila_agent.outbound.http.clients import UPDATES, Clients
from kattila_agent.outbound.http.connection import Connection, Reply
from kattila_agent.sampling.collect import Inputs
from kattila_agent.sampling.measurement import Measurement
from kattila_keys.dns import query_txt
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile
from support.reports import Node, node, telemetry
from support.runtime import REAL

# The names of files in the folder of one agent, and the label in its reports that names a measurement.
MEASURED = "measured"
ANSWERS = "answers"
LABEL = "measurement"
CRASH = "crash"
_DNS_SECONDS = 5.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that an agent got to a report: when it sent it (seconds), how long that took (ms), and the status.

    The status is 0 if no answer came.
    """

    at: float
    took_ms: float
    status: int


class TimedConnection:
    """The connection of an agent to the manager, which records how long every report took."""

    def __init__(self, connection: Connection, file: Path) -> None:
        self._connection, self._file = connection, file

    @property
    def address(self) -> str | None:
        return self._connection.address

    def post(self, path: str, body: Any, *more: Any, **options: Any) -> Reply:
        began, status = time.monotonic(), 0
        try:
            reply = self._connection.post(path, body, *more, **options)
            status = reply.status
            return reply
        finally:
            if path == UPDATES:
                line = json.dumps([began, 1000 * (time.monotonic() - began), status])
                with self._file.open("a") as file:
                    file.write(f"{line}\n")


class Simulated:
    """One agent, which can be stopped and started again on the same folder."""

    def __init__(self, folder: Path, number: int, environment: Mapping[str, str]) -> None:
        self._folder, self._node = folder / str(number), node(number)
        self._folder.mkdir(exist_ok=True)
        (self._folder / "agent_id.txt").write_text(f"{self._node.agent_id}\n")
        self._settings = config.read(None, dict(environment) | {"STATE_DIR": str(self._folder)}, folder)
        self._measured = 0
        self._running: tuple[Agent, Loop, threading.Thread] | None = None

    def start(self) -> None:
        runtime, settings = replace(REAL, share=random.random), self._settings
        keys = Keys(RingFile(self._folder / "ring.json"), _txt_query(settings), runtime.share)
        clients = Clients.of(settings.required_manager_url())
        timed = cast(Connection, TimedConnection(clients.manager, self._folder / ANSWERS))
        identity = Identity(self._folder, runtime.new_id)
        agent = Agent(settings, runtime, identity, keys, replace(clients, manager=timed), self._measure)
        loop = Loop(runtime, keys, agent.reporter, agent.draining, settings.interval_seconds)
        thread = threading.Thread(target=self._run, args=(loop,), daemon=True)
        self._running = agent, loop, thread
        thread.start()

    def stop(self) -> None:
        if self._running is None:
            return
        agent, loop, thread = self._running
        loop.request(loop.stop)
        thread.join(_STOP_SECONDS)
        agent.spool.close()
        self._running = None

    def _run(self, loop: Loop) -> None:
        try:
            loop.run()
        except BaseException:
            (self._folder / CRASH).write_text(traceback.format_exc())

    def _measure(self, inputs: Inputs) -> Measurement:
        self._measured += 1
        label = f"{self._node.hostname}-{self._measured}"
        with (self._folder / MEASURED).open("a") as file:
            file.write(f"{label}\n")
        return Measurement(
            _labelled(self._node, self._measured, label),
            inputs.runtime.now(),
            self._node.boot_id,
            inputs.runtime.since_boot_ms(),
        )


def _labelled(sender: Node, seed: int, label: str) -> Any:
    found = telemetry(sender, seed=seed)
    assert found.system is not None
    return replace(found, system=replace(found.system, labels={LABEL: label}))


def _txt_query(settings: Config) -> Callable[[], Any]:
    return lambda: query_txt(settings.required_dns(), server=settings.dns_server, timeout_seconds=_DNS_SECONDS)


def main(folder: Path, first: int, last: int) -> None:
    """Run all agents until "end" or the end of the input."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    agents = {number: Simulated(folder, number, os.environ) for number in range(first, last + 1)}
    for agent in agents.values():
        agent.start()
    for line in sys.stdin:
        word, _, number = line.strip().partition(" ")
        if word == "end":
            break
        agents[int(number)].start() if word == "start" else agents[int(number)].stop()
        print(line.strip(), flush=True)
    for agent in agents.values():
        agent.stop()
    print("end", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
