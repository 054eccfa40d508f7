"""The real manager as processes of its own, on a free loopback port, in a folder that a test chose."""

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
    """Return the moment in ms UTC, as the manager's clock says it."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered; the names of `headers` are in lower case."""

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
        """The last part of a problem's type."""
        return str(self.members["type"]).rpartition(":")[2]

    @property
    def is_signed(self) -> bool:
        """Tell whether it claims to be signed; `verdict` tells whether it is."""
        return b'"hmac":' in self.body

    def verdict(self, nonce: str, ring: Ring = RING) -> Verdict:
        """Return the verdict on the message of this nonce, its signature checked; raises Refusal."""
        return verdict.unseal(self.body, ring, nonce)


class Manager:
    """`kattila-manager serve`, to be started, killed and started again in one folder."""

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
        """Prepare the folder: with a ring, it was read from DNS just now; with None there is no ring file yet.

        The database and the ring lie in `data_folder`, else in the folder too. A manager `within` a network namespace
        is not reached from here, and can have any `port`.
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
        """The ring that the manager uses."""
        return RingFile(self.database.with_name("kattila_ring.json"))

    @property
    def environment(self) -> dict[str, str]:
        """All that a command of the manager gets; nothing of whoever runs the tests, and a resolver that is dead."""
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        given = {
            "PYTHONWARNINGS": "error",
            "DNS": "kattila.example.org",
            "DNS_SERVER": "127.0.0.1:9",
            "MANAGER_LISTEN": f"{self._listen}:{self.port}",
            "MANAGER_DB": str(self.database),
            "MANAGER_WORKERS": str(self._workers),
            "PAGES_DIR": str(self.folder / "pages"),
        }
        return keep | given | self._settings

    @property
    def log(self) -> str:
        """What it logged so far, in all its runs."""
        return self.log_file.read_text(errors="replace")

    def start(self) -> None:
        """Start it, and return when it answers and all its workers do."""
        began_at = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._within.command(*self._program, "serve") if self._within else [*self._program, "serve"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: self._is_ready(began_at), lambda: f"an answer of the manager:\n{self.log}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the parent, wait until no process of it is left, and return the exit code."""
        assert self._process is not None
        tree = self.processes()
        self._process.send_signal(number)
        try:
            return self._process.wait(PATIENCE_SECONDS)
        finally:
            alive = _not_gone(tree)
            for process in alive:
                process.kill()
            self._process.wait()
            self._process = None
            assert not alive, f"{len(alive)} processes outlived the signal {number}"

    def kill(self) -> None:
        """SIGKILL the parent and all workers, as a power cut would, and return when they are gone."""
        if self._process is None:
            return
        tree = self.processes()
        for process in tree:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        assert not _not_gone(tree)
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
        """Run another command of the manager to its end, with the same settings."""
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
        """Return a connection of its own, for `exchange`."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Make one request on a connection of its own."""
        with closing(self.connect()) as connection:
            return exchange(connection, method, path, body, headers)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """GET a path."""
        return self.ask("GET", path, None, headers)

    def post(self, body: bytes, path: str = UPDATES, headers: Mapping[str, str] | None = None) -> Reply:
        """POST a JSON body, as an agent does."""
        return self.ask("POST", path, body, _JSON | dict(headers or {}))

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database over a connection of its own, while the manager runs or does not."""
        with closing(sqlite3.connect(self.database, timeout=PATIENCE_SECONDS)) as connection:
            return connection.execute(query, values).fetchall()

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
    """Make one request on a connection that is kept."""
    connection.request(method, path, body, dict(headers or {}))
    response = connection.getresponse()
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def _not_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (alive := [process for process in processes if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.005)
    return alive


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process still runs."""
    # A killed orphan stays a zombie until init gets round to it; its files and its port are closed by then.
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
    """Run a manager; at the end all its processes are killed, whatever became of them."""
    manager = Manager(
        folder, ring=ring, workers=workers, listen=listen, within=within, data_folder=data_folder, port=port, **settings
    )
    try:
        manager.start()
        yield manager
    finally:
        # Not stopped: with a dead resolver that waits for its time-out.
        manager.kill()
