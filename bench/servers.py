"""Starts and stops the two servers that are compared, and measures their CPU time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from kattila_keys.ring_file import RingFile, StoredRing
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.signing import Key

ROOT = Path(__file__).resolve().parents[1]
# The first start imports modules, migrates the database, and starts workers.
START_SECONDS = 30.0
STOP_SECONDS = 30.0


class ServerError(Exception):
    """A server failed to start or stop; the text names it and has the end of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server to start. Its environment is `environment` and PATH; its log and database are in `folder`."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    port: int
    folder: Path

    @property
    def database(self) -> Path:
        """Return the path of the database."""
        return self.folder / "bench.db"

    @property
    def log_end(self) -> str:
        """Return the last lines of the log."""
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-15:])


def baseline(folder: Path, port: int, psk: bytes) -> Server:
    """Return the baseline: Flask with a commit per report, in a separate environment."""
    psk_file = folder / "psks.json"
    psk_file.write_text(json.dumps([psk.decode(), "the psk before, of the bench", "the psk before that one"]))
    python, app = ROOT / ".venv-bench/bin/python", ROOT / "bench/baseline/app.py"
    command = (str(python), str(app), str(port), str(folder / "bench.db"), str(psk_file))
    return Server("baseline", command, {}, port, folder)


def manager(folder: Path, port: int, psk: bytes, workers: int, now: int) -> Server:
    """Return the manager, with a ring read from DNS at `now` (ms UTC), so that it sends no query."""
    ring = Ring((RingEntry(Key.from_psk(psk), now),))
    RingFile(folder / "kattila_ring.json").update(lambda _: StoredRing(ring, asked_at=now, answered_at=now))
    environment = {
        "DNS": "kattila.example.net",
        # No server listens here, so no query leaves this machine.
        "DNS_SERVER": "127.0.0.1:9",
        "MANAGER_LISTEN": f"127.0.0.1:{port}",
        "MANAGER_DB": str(folder / "bench.db"),
        "MANAGER_WORKERS": str(workers),
        # All agents are new in a run, and come from this machine.
        "NEW_AGENTS_PER_MINUTE": "60000",
        "NEW_AGENTS_PER_SOURCE": "60000",
        "MAX_AGENTS": "1000000",
    }
    command = (str(Path(sys.executable).with_name("kattila-manager")), "serve")
    return Server("manager", command, environment, port, folder)


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A running server, with the resources that its processes use."""

    def __init__(self, server: Server, process: subprocess.Popen[bytes]) -> None:
        """Watch the processes below this one."""
        self.server = server
        self._process = process
        self.peak_rss_bytes = 0

    def cpu_seconds(self) -> dict[int, float]:
        """Return the user and system time of each process."""
        return {process.pid: sum(process.cpu_times()[:2]) for process in self._tree()}

    def note_memory(self) -> None:
        """Update the peak of the processes' resident memory, where shared pages count for each process."""
        self.peak_rss_bytes = max(self.peak_rss_bytes, sum(process.memory_info().rss for process in self._tree()))

    def wait_until_ready(self) -> None:
        """Wait until the server answers and its processes are idle, so that all workers accept connections."""
        ends_at = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > ends_at:
                raise ServerError(f"the {self.server.name} did not start; the end of its log:\n{self.server.log_end}")
            time.sleep(0.05)
        used, before = sum(self.cpu_seconds().values()), -1.0
        while used - before > 0.02 and time.monotonic() < ends_at:
            time.sleep(0.4)
            used, before = sum(self.cpu_seconds().values()), used

    def stop(self) -> None:
        """Stop the server and wait; raises ServerError if it has to be killed."""
        processes = self._tree()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise ServerError(f"the {self.server.name} did not stop within {STOP_SECONDS:.0f} s of SIGTERM") from None
        finally:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)

    def _tree(self) -> list[psutil.Process]:
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def _answers(self) -> bool:
        try:
            url = f"http://127.0.0.1:{self.server.port}/status/healthcheck"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextlib.contextmanager
def running(server: Server) -> Iterator[Running]:
    """Start a server in its folder, wait until it is ready, and stop it at the end."""
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **server.environment}
    with (server.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            server.command, env=environment, cwd=server.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    started = Running(server, process)
    try:
        started.wait_until_ready()
        yield started
    finally:
        if process.poll() is None:
            started.stop()
