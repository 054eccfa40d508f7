"""Runs the real manager as processes, on a free loopback port, in a folder of a test."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kattila_keys.ring_file import RingFile, StoredRing
from kattila_protocol import verdict
from kattila_protocol.ring import Ring
from kattila_protocol.verdict import Verdict
from support.knot import free_port
from support.netns import Namespace
from support.reports import RING
from support.waiting import PATIENCE_SECONDS, wait_for

MANAGER = [sys.executable, "-m", "kattila_manager"]
UPDATES = "/status/updates"
REGISTER = "/status/register"
HEALTH = "/status/healthcheck"
RESET = "/status/admin/reset"

_JSON = {"Content-Type": "application/json"}


def now_ms() -> int:
    """Return the current time in ms UTC."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Reply:
    """A response of the manager; the names of `headers` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def members(self) -> dict[str, Any]:
        """The body as a JSON object."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def kind(self) -> str:
        """The last part of the problem type."""
        return str(self.members["type"]).rpartition(":")[2]

    @property
    def is_signed(self) -> bool:
        """Whether the response has a MAC; `verdict` verifies it."""
        return b'"hmac":' in self.body

    def verdict(self, nonce: str, ring: Ring = RING) -> Verdict:
        """Return the verified verdict on the message with this nonce; raises Refusal."""
        return verdict.unseal(self.body, ring, nonce)


class Manager:
    """`kattila-manager serve` in one folder, to be started, killed and started again."""

    def __init__(
        self,
        folder: Path,
        *,
        ring: Ring | None = RING,
        workers: int = 2,
        listen: str = "127.0.0.1",
        within: Namespace | None = None,
        data_folder: Path | None = None,
        program: Sequence[str] = MANAGER,
        port: int = 0,
        **settings: str,
    ) -> None:
        """Prepare the folder; `ring` is as if read from DNS just now, None means that there is no ring file yet.

        Database and ring file are in `data_folder`, by default in `folder`. A manager `within` a network namespace
        cannot be reached from the test's namespace, and can have any `port`.
        """
        self.folder = folder
        self._listen = listen
        self._within = within
        self._program = program
        self.port = port or free_port()
        self.database = (data_folder or folder) / "kattila_manager.db"
        self.log_file = folder / "manager.log"
        self._workers = workers
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        if ring is not None:
            now = now_ms()
            self.ring_file.update(lambda _: StoredRing(ring, asked_at=now, answered_at=now))

    @property
    def ring_file(self) -> RingFile:
        """The ring file of the manager."""
        return RingFile(self.database.with_name("kattila_ring.json"))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of all commands: no settings of the developer, and a resolver that does not answer."""
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        settings = {
            "PYTHONWARNINGS": "error",
            "DNS": "kattila.example.org",
            "DNS_SERVER": "127.0.0.1:9",
            "MANAGER_LISTEN": f"{self._listen}:{self.port}",
            "MANAGER_DB": str(self.database),
            "MANAGER_WORKERS": str(self._workers),
            "PAGES_DIR": str(self.folder / "pages"),
        }
        return keep | settings | self._settings

    @property
    def log(self) -> str:
        """The log of all its runs so far."""
        return self.log_file.read_text(errors="replace")

    def start(self) -> None:
        """Start the manager, and return when all its workers answer."""
        began_at = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._within.command(*self._program, "serve") if self._within else [*self._program, "serve"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: self._is_ready(began_at), lambda: f"an answer from the manager:\n{self.log}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the parent a signal, wait until all processes have ended, and return the exit code."""
        assert self._process is not None
        tree = self.processes()
        self._process.send_signal(number)
        try:
            return self._process.wait(PATIENCE_SECONDS)
        finally:
            alive = _still_alive(tree)
            for process in alive:
                process.kill()
            self._process.wait()
            self._process = None
            assert not alive, f"{len(alive)} processes outlived the signal {number}"

    def kill(self) -> None:
        """Kill the parent and all workers (SIGKILL), and return when they have ended."""
        if self._process is None:
            return
        tree = self.processes()
        for process in tree:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        assert not _still_alive(tree)
        self._process = None

    def processes(self) -> list[psutil.Process]:
        """Return the parent and all workers."""
        if self._process is None or self._process.poll() is not None:
            return []
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """Return the workers."""
        return self.processes()[1:]

    def rss_bytes(self) -> int:
        """Return the resident memory of the largest worker."""
        return max(worker.memory_info().rss for worker in self.workers())

    def command(self, *arguments: str, seconds: float = PATIENCE_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run another command of the manager with the same settings, and wait for its end."""
        return subprocess.run(
            [*self._program, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def connect(self, seconds: float = PATIENCE_SECONDS) -> http.client.HTTPConnection:
        """Return a new connection, for `exchange`."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one request over a new connection."""
        with closing(self.connect()) as connection:
            return exchange(connection, method, path, body, headers)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a GET request."""
        return self.request("GET", path, None, headers)

    def post(self, body: bytes, path: str = UPDATES, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a POST request with a JSON body, as an agent does."""
        return self.request("POST", path, body, _JSON | dict(headers or {}))

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Query the database over a new connection, whether the manager runs or not."""
        with closing(sqlite3.connect(self.database, timeout=PATIENCE_SECONDS)) as connection:
            return connection.execute(query, values).fetchall()

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Change the database over a new connection, and commit at the end."""
        with closing(sqlite3.connect(self.database, timeout=PATIENCE_SECONDS)) as connection, connection:
            yield connection

    def _is_ready(self, began_at: int) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended with {self._process.returncode}:\n{self.log}"
        started = self.log_file.read_bytes()[began_at:].count(b" takes reports")
        return started >= self._workers and self._answers()

    def _answers(self) -> bool:
        if self._within is not None:
            return True
        try:
            return self.get(HEALTH).status == 200
        except OSError:
            return False


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Send one request over an open connection."""
    connection.request(method, path, body, dict(headers or {}))
    response = connection.getresponse()
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def _still_alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (alive := [process for process in processes if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.005)
    return alive


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process still runs."""
    # A killed orphan stays a zombie until init reaps it, but its files and its port are closed.
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def running_manager(
    folder: Path,
    *,
    ring: Ring | None = RING,
    workers: int = 2,
    listen: str = "127.0.0.1",
    within: Namespace | None = None,
    data_folder: Path | None = None,
    port: int = 0,
    **settings: str,
) -> Iterator[Manager]:
    """Run a manager, and kill all its processes at the end."""
    manager = Manager(
        folder, ring=ring, workers=workers, listen=listen, within=within, data_folder=data_folder, port=port, **settings
    )
    try:
        manager.start()
        yield manager
    finally:
        # Killed, because with a dead resolver SIGTERM would wait for a timeout.
        manager.kill()
