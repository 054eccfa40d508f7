"""No failure ends a loop of the agent: each is logged once, is tried again, and its end is logged."""

from __future__ import annotations

import logging
import resource
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from waitress.server import TcpWSGIServer

from kattila_agent.daemon import Loop
from kattila_agent.identity import StateError
from kattila_agent.outbound.discovery.directory import Directory
from kattila_agent.outbound.discovery.queries import Discoverer
from kattila_agent.outbound.draining import Draining
from kattila_agent.outbound.http.resolver import Resolver
from kattila_agent.outbound.reporting import Reporter
from kattila_agent.peer_api import listening, server
from kattila_agent.runtime import Runtime
from kattila_keys.refresh import Keys
from kattila_protocol.ring import Ring
from kattila_settings.values import Listen
from support.agent_folder import PSK, keep_ring, settings
from support.agent_process import AGENT, running_daemon
from support.knot import Knot
from support.manager_stand_in import running_stand_in
from support.reports import RING
from support.waiting import join_all, wait_for

ERRORS = [
    OSError(28, "No space left on device"),
    StateError("agent_id.txt holds no UUID"),
    ValueError("nameserver 8.8.4.4, is not an address"),
    RuntimeError("can't start new thread"),
    MemoryError(),
    RecursionError(),
    AssertionError(),
]


# --- The whole daemon


def test_a_daemon_without_free_file_descriptors_survives_and_recovers(knot: Knot, tmp_path: Path) -> None:
    with running_stand_in(PSK) as manager, running_daemon(tmp_path, **settings(knot, manager.url, PSK)) as daemon:
        manager.wait_for_reports(2)
        host, _, port = daemon.address().rpartition(":")
        process = psutil.Process(daemon.process.pid)
        _, most = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (3, most))
        daemon.wait_for_log("no report: ")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            daemon.wait_for_log("accepting connections to the API failed, and is tried again: Too many open files")
            before = process.cpu_times()
            time.sleep(2)
            after = process.cpu_times()
            # A loop that does not pause would use a whole processor.
            assert after.user + after.system - before.user - before.system < 1
            resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (most, most))
            connection.sendall(b"GET /status/healthcheck HTTP/1.0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.0 200 ")
        daemon.wait_for_log("accepting connections to the API works again")
        daemon.wait_for_log("reporting works again")
        manager.wait_for_reports(len(manager.reports()) + 2)
        assert daemon.log.count("accepting connections to the API failed") == 1
        assert "Traceback" not in daemon.log


@pytest.mark.parametrize(
    "line", ["nameserver 8.8.4.4,", "nameserver localhost", "nameserver 127.0.0.1#53", "# geändert", "search .."]
)
def test_a_daemon_with_a_cached_key_reports_whatever_is_in_resolv_conf(tmp_path: Path, line: str) -> None:
    if shutil.which("unshare") is None or not Path("/etc/resolv.conf").exists():
        pytest.skip("needs unshare and /etc/resolv.conf")
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_bytes(f"{line}\n".encode("latin-1"))
    mounted = ["unshare", "--mount", "--net", "sh", "-ec", f'mount --bind {resolv_conf} /etc/resolv.conf; exec "$@"']
    keep_ring(tmp_path, PSK)
    chosen = {"DNS": "kattila.example.org", "MANAGER_URL": "http://127.0.0.1:9", "INTERVAL": "1"}
    with running_daemon(tmp_path, program=[*mounted, "sh", *AGENT], **chosen) as daemon:
        daemon.wait_for_log(
            "querying DNS for the PSK failed, the last good keys stay in use: no resolver is configured"
        )
        waiting = len(list((tmp_path / "spool").rglob("*")))
        wait_for(lambda: len(list((tmp_path / "spool").rglob("*"))) > waiting + 1, "further samples")
        assert daemon.process.poll() is None
    assert "Traceback" not in daemon.log


# --- The reporting thread


@dataclass
class Flaky:
    """The parts of a loop: `broken` names the methods that raise `error`, and `calls` counts the calls of each."""

    error: Exception
    broken: set[str] = field(default_factory=set)
    calls: dict[str, int] = field(default_factory=dict)
    due_at: float | None = 0.0

    def call(self, name: str) -> None:
        self.calls[name] = self.calls.get(name, 0) + 1
        if name in self.broken:
            raise self.error

    def cycle(self) -> bool:
        self.call("cycle")
        return True

    def begin(self) -> None:
        self.due_at = 0.0
        self.call("begin")

    def stop(self) -> None:
        self.due_at = None

    def step(self) -> None:
        self.due_at = time.monotonic() + 0.01
        self.call("step")

    def ring(self) -> Ring:
        self.call("ring")
        return RING

    def refresh_or_log(self, now: int) -> Ring:
        return RING

    def refresh_if_due(self, now: int) -> None:
        self.call("refresh_if_due")


def runtime() -> Runtime:
    numbers = count()
    return Runtime(
        now=lambda: time.time_ns() // 1_000_000,
        monotonic=time.monotonic,
        since_boot_ms=lambda: 1000,
        nonce=lambda: f"{next(numbers):032x}",
        new_id=lambda: "11111111-1111-4111-8111-111111111111",
        share=lambda: 0.5,
    )


@contextmanager
def in_thread(target: Callable[[], object], stop: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=target)
    thread.start()
    try:
        yield thread
    finally:
        stop()
        join_all([thread])


@pytest.mark.parametrize(
    ("broken", "activity"),
    [
        ("cycle", "reporting"),
        ("begin", "reporting"),
        ("step", "sending waiting samples"),
        ("ring", "refreshing the keys"),
        ("refresh_if_due", "refreshing the keys"),
    ],
)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_reporting_thread_survives_every_error_of_its_parts(
    broken: str, activity: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kattila.agent")
    flaky = Flaky(error, {broken})
    loop = Loop(runtime(), cast(Keys, flaky), cast(Reporter, flaky), cast(Draining, flaky), 0.05)
    with in_thread(loop.run, lambda: loop.request(loop.stop)):
        wait_for(lambda: flaky.calls.get(broken, 0) >= 3, "calls in spite of errors")
        assert len(caplog.messages) == 1, caplog.text
        flaky.broken.clear()
        wait_for(lambda: f"{activity} works again" in caplog.messages, lambda: caplog.text)
        calls = dict(flaky.calls)
        wait_for(lambda: flaky.calls["cycle"] > calls["cycle"] + 1, "further reports")
    assert len(caplog.messages) == 2, caplog.text


# --- Discovery


class FlakyDirectory(Directory):
    """A directory that raises while it is broken."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error
        self.calls = 0

    def due(self, now: float, *, hurried: bool) -> str | None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return None


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_discovery_thread_survives_every_error_outside_of_a_query(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kattila.agent")
    directory = FlakyDirectory(error)
    parts: dict[str, Any] = {"get": None, "ring": lambda: RING, "own_id": lambda: "", "hurried": lambda now: False}
    discovery = Discoverer(runtime(), directory, **parts)
    with in_thread(discovery.run, discovery.stop.set):
        wait_for(lambda: directory.calls >= 2, "a second turn")
        directory.error = None
        wait_for(lambda: "discovery works again" in caplog.messages, lambda: caplog.text)
    assert len(caplog.messages) == 2


# --- The API


@contextmanager
def serving() -> Iterator[int]:
    """Serve in a thread, which ends with the process."""
    bound = listening.open_sockets([Listen("127.0.0.1", 0)])
    server.serve(lambda environ, start: start("204 No Content", []) and [], bound, lambda source: True)
    yield bound[0].getsockname()[1]


def answer(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return connection.recv(12)


def _maintenance(monkeypatch: pytest.MonkeyPatch, fails: Callable[[], object]) -> None:
    original = TcpWSGIServer.maintenance
    monkeypatch.setattr(TcpWSGIServer, "maintenance", lambda self, now: (fails(), original(self, now)))


def _new_connection(monkeypatch: pytest.MonkeyPatch, fails: Callable[[], object]) -> None:
    original = server._ClientChannel.__init__
    monkeypatch.setattr(
        server._ClientChannel, "__init__", lambda self, *more, **named: (fails(), original(self, *more, **named))[1]
    )


def _turn(monkeypatch: pytest.MonkeyPatch, fails: Callable[[], object]) -> None:
    original = TcpWSGIServer.writable
    monkeypatch.setattr(TcpWSGIServer, "writable", lambda self: (fails(), original(self))[1])


@pytest.mark.parametrize(
    ("break_", "activity"),
    [
        (_maintenance, "closing old connections"),
        (_new_connection, "accepting connections to the API"),
        (_turn, "serving the API"),
    ],
)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_api_survives_every_error(
    break_: Callable[..., None],
    activity: str,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "kattila.agent")
    is_broken = threading.Event()

    def fails() -> None:
        if is_broken.is_set():
            raise error

    break_(monkeypatch, fails)
    with serving() as port:
        assert answer(port) == b"HTTP/1.0 204"
        is_broken.set()

        def has_failed() -> bool:
            # A connection, because only one makes a server accept.
            socket.create_connection(("127.0.0.1", port), timeout=60).close()
            return f"{activity} failed, and is tried again: " in caplog.text

        wait_for(has_failed, "the failure in the log")
        is_broken.clear()
        assert answer(port) == b"HTTP/1.0 204"
        wait_for(lambda: f"{activity} works again" in caplog.messages, lambda: caplog.text)
        assert answer(port) == b"HTTP/1.0 204"


# --- The resolver


def test_a_lookup_that_finds_no_thread_is_tried_again() -> None:
    resolver = Resolver(lambda host: ["192.0.2.1"])
    before = threading.stack_size(2**40)
    try:
        with pytest.raises(socket.gaierror, match="can't start new thread"):
            resolver.addresses("manager.example")
    finally:
        threading.stack_size(before)
    assert resolver.addresses("manager.example") == ["192.0.2.1"]


def test_the_last_addresses_stay_in_use_whatever_error_a_lookup_ends_with() -> None:
    answers: Iterator[list[str] | Exception] = iter([["192.0.2.1"], RuntimeError("odd"), MemoryError(), ["192.0.2.2"]])

    def look_up(host: str) -> list[str]:
        said = next(answers)
        if isinstance(said, Exception):
            raise said
        return said

    resolver = Resolver(look_up)
    found = [resolver.addresses("manager.example") for _ in range(4)]
    assert found == [["192.0.2.1"], ["192.0.2.1"], ["192.0.2.1"], ["192.0.2.2"]]
