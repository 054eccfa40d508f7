"""Runs a siege: 20 honest agents, the manager and its publisher, alone at first and then beside the liar."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from kattila_manager.store.store import Store
from support.counts import IS_FULL
from support.knot import ZONE, running_knot
from support.manager import MANAGER, Manager, running_manager
from support.reports import PSK, node
from support.siege import forge
from support.siege.honest import SIMULATED, TESTS, Honest, address_of, label_in
from support.siege.outcome import LiarResult, Outcome, Phase
from support.store import all_records
from support.waiting import PATIENCE_SECONDS, wait_for

INTERVAL_SECONDS = 1
# An agent is silent after three of these. In the full run even a liar that is slow is not silent all the time.
REPORT_INTERVAL_SECONDS = 10 if IS_FULL else 2
# Honest agents whose numbers the liar forges, those whose ids it claims, and the one that is stopped in each phase.
NUMBERED, CLAIMED, STOPPED = (1, 18), (3,), 10
LISTS = {"agents": "/status/agents", "alarms": "/status/alarms", "page": "/"}
_READ_SECONDS = 0.5
_PRIORITY = 15
_SILENT = "SELECT count(*) FROM alarms WHERE kind = 'agent_silent' AND agent_id = ? AND closed_at IS NULL"


class Scene:
    """Everything that runs, except for the liar."""

    def __init__(self, folder: Path, manager: Manager, stack: ExitStack) -> None:
        """Start publisher and agents; the stack ends them."""
        self._folder, self.manager = folder, manager
        self.publish_log = folder / "publish.log"
        log = stack.enter_context(self.publish_log.open("wb"))
        command = [*MANAGER, "publish", "--every", "1"]
        self._publisher = subprocess.Popen(command, cwd=folder, env=manager.environment, stdout=log, stderr=log)
        stack.callback(_kill, self._publisher)
        settings = {name: manager.environment[name] for name in ("PATH", "DNS", "DNS_SERVER")}
        url = {"MANAGER_URL": f"http://127.0.0.1:{manager.port}", "INTERVAL": str(INTERVAL_SECONDS)}
        (folder / "honest").mkdir()
        self.honest = Honest(folder / "honest", settings | url, stack)
        self.peak_rss: dict[str, int] = {}

    @contextmanager
    def liar(self, connections: int) -> Iterator[Path]:
        """Run the liar with this many idle connections of each kind; yield the file that has its result afterwards."""
        target, result = self._folder / "target.json", self._folder / "said.json"
        target.write_text(json.dumps(self._target(connections)))
        command = [sys.executable, "-m", "support.siege.liar", str(target), str(result)]
        environment = {"PYTHONPATH": str(TESTS), "PATH": self.manager.environment["PATH"]}
        log_file = self._folder / "liar.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=log)
        try:
            yield result
            process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            _kill(process)
        assert process.returncode == 0, log_file.read_text()

    def phase(self, seconds: float, is_over: Callable[[], bool] = lambda: True) -> Phase:
        """Let time pass, while an honest agent is stopped, missed, and started again.

        It ends when at least this much time has passed, and `is_over` returns true or has not for too long.
        """
        phase, over, began_at = Phase(time.monotonic()), threading.Event(), self._cpu_seconds()
        reader = threading.Thread(target=self._read_until, args=(phase, over))
        reader.start()
        try:
            # First the agents report a few times.
            time.sleep(3 * INTERVAL_SECONDS)
            self.honest.command(f"stop {STOPPED}")
            phase.opened_after = seconds_until(self._is_called_silent)
            self.honest.command(f"start {STOPPED}")
            phase.closed_after = seconds_until(lambda: not self._is_called_silent())
            time.sleep(max(0.0, phase.began + seconds - time.monotonic()))
            seconds_until(is_over)
        finally:
            over.set()
            reader.join()
        phase.ended = time.monotonic()
        phase.cpu_seconds = self._cpu_seconds() - began_at
        phase.waiting = {number: len(files) for number, files in self.honest.waiting().items()}
        return phase

    def settle(self) -> None:
        """Wait until every agent has delivered another report and no other sample waits, or for too long."""
        now = time.monotonic()
        seconds_until(lambda: self.honest.have_delivered(now) and max(map(len, self.honest.waiting().values())) < 2)

    def outcome(self, alone: Phase, besieged: Phase, liar: LiarResult) -> Outcome:
        """Stop all agents, and return what happened."""
        crashes = self.honest.crashes()
        self.honest.stop()
        logs = {"manager": self.manager.log_file, "publish": self.publish_log, "agents": self.honest.log_file}
        logs |= {f"agent {number}": daemon.log_file for number, daemon in self.honest.daemons.items()}
        published = self.publish_log.read_text(errors="replace").splitlines()
        return Outcome(
            alone=alone,
            besieged=besieged,
            liar=liar,
            measured=self.honest.measured(),
            stored=_stored(self.manager),
            waiting=self.honest.waiting_labels(),
            crashes=crashes,
            dropped=self.honest.dropped(),
            answers={number: self.honest.answers(number) for number in SIMULATED},
            logs={name: file.read_bytes() for name, file in logs.items()},
            failed_steps=[line for line in published if " failed: " in line],
            peak_rss=self.peak_rss,
        )

    def _target(self, connections: int) -> dict[str, object]:
        return {
            "host": "127.0.0.1",
            "port": self.manager.port,
            "psk": PSK.decode(),
            "idle": connections,
            "agents": [(*address_of(each), node(n).agent_id) for n, each in self.honest.daemons.items()],
            "numbered": [forge.as_json(node(number)) for number in NUMBERED],
            "claimed": [forge.as_json(node(number)) for number in CLAIMED],
        }

    def _is_called_silent(self) -> bool:
        return self.manager.rows(_SILENT, node(STOPPED).agent_id) == [(1,)]

    def _cpu_seconds(self) -> float:
        """Return the processor time of the manager's server and publisher so far."""
        processes = [*self.manager.processes(), psutil.Process(self._publisher.pid)]
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    def _read_until(self, phase: Phase, over: threading.Event) -> None:
        while not over.wait(_READ_SECONDS):
            for name, path in LISTS.items():
                self._read(phase, name, path)
            phase.probes.update(map(self.honest.probe, self.honest.daemons.values()))
            sizes = {"publisher": [_rss(self._publisher.pid)], "workers": [_rss(w.pid) for w in self.manager.workers()]}
            for name, found in sizes.items():
                self.peak_rss[name] = max(self.peak_rss.get(name, 0), *found)

    def _read(self, phase: Phase, name: str, path: str) -> None:
        began = time.monotonic()
        try:
            reply = self.manager.get(path)
        except OSError:
            phase.failed_reads += 1
            return
        phase.read_ms.append(1000 * (time.monotonic() - began))
        phase.failed_reads += reply.status != 200
        if reply.status == 200:
            phase.bytes[name] = max(phase.bytes.get(name, 0), len(reply.body))


def besiege(folder: Path, alone_seconds: float, besieged_seconds: float, connections: int) -> Outcome:
    """Run both phases, and return what happened."""
    with first_in_turn(), running_knot({"siege": [PSK]}) as knot, ExitStack() as stack:
        running = running_manager(
            folder,
            ring=None,
            DNS=f"siege.{ZONE}",
            DNS_SERVER=knot.address,
            REPORT_INTERVAL=str(REPORT_INTERVAL_SECONDS),
        )
        scene = Scene(folder, stack.enter_context(running), stack)
        wait_for(lambda: scene.honest.have_delivered(0), lambda: f"a report of every agent:\n{scene.honest.log}")
        alone = scene.phase(alone_seconds)
        with scene.liar(connections) as result:
            besieged = scene.phase(besieged_seconds, lambda: not LiarResult.read(result).missing)
        scene.settle()
        return scene.outcome(alone, besieged, LiarResult.read(result))


@contextmanager
def first_in_turn() -> Iterator[None]:
    """Give this process and its children a higher priority, if that is permitted.

    Otherwise other tests on the same processors would change the speeds that are compared.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, before - _PRIORITY)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def seconds_until(condition: Callable[[], bool]) -> float | None:
    """Return after how many seconds the condition was true, None if it took too long."""
    began = time.monotonic()
    try:
        wait_for(condition, "the condition")
    except AssertionError:
        return None
    return time.monotonic() - began


def _stored(manager: Manager) -> Counter[str]:
    store = Store(manager.database)
    try:
        labels = [label_in(record.data) for record in all_records(store)]
    finally:
        store.close()
    return Counter(label for label in labels if label is not None)


def _rss(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
