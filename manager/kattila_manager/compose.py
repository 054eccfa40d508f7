"""Joins the parts of the manager for one process: a server's worker, or a command.

May live here: construction, and the clock and chance that all others are given.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib.metadata
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kattila_keys.dns import query_txt
from kattila_keys.dns_server import TxtRecords
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile, RingFileError
from kattila_manager.api.app import Services, make_app
from kattila_manager.config import Config, read_config
from kattila_manager.ingest import wsgi_bridge
from kattila_manager.ingest.rsgi_app import Door, deliver_in
from kattila_manager.ingest.update_handler import Intake
from kattila_manager.pages.index_page import Seen, Source
from kattila_manager.publishing.publisher import Done, Publisher, Settings
from kattila_manager.publishing.website import Website
from kattila_manager.records import Filed, KeyName, Snapshot
from kattila_manager.store import migrating
from kattila_manager.store.admin.retention import Limits
from kattila_manager.store.database import DatabaseUnusableError
from kattila_manager.store.ingest.refusal_counters import Counters
from kattila_manager.store.ingest.worker_status import Sideline
from kattila_manager.store.ingest.writer import Writer
from kattila_manager.store.store import Store, open_existing
from kattila_manager.topology.presence import Watch
from kattila_settings.signals import Signals

_DNS_SECONDS = 5.0
_REFRESH_LOOK_SECONDS = 5.0
_POOL_THREADS = 4
_PR_SET_PDEATHSIG = 1
# The environment variable by which a worker knows whose it is.
PARENT = "KATTILA_MANAGER_PARENT"
# Some hundred reports.
_GC_OBJECTS = 50_000

_DAY_MS = 24 * 60 * 60 * 1000
# Between two slices of pruning, so that whoever waits for the write lock gets it.
_PRUNE_PAUSE_SECONDS = 0.02

_log = logging.getLogger("kattila.manager")
_publish_log = logging.getLogger("kattila.publish")

Deliver = Callable[[Sequence[tuple[Any, Filed]]], object]


def clock() -> int:
    """Return the moment in ms UTC."""
    return time.time_ns() // 1_000_000


def configured(env_file: str | None = None) -> Config:
    """Return the settings of this process. Raises ConfigError."""
    return read_config(env_file, os.environ, Path.cwd())


def version() -> str:
    """Return the version of this program."""
    return importlib.metadata.version("kattila-manager")


def make_ask(config: Config) -> Callable[[], TxtRecords]:
    """Make the question to DNS. Raises ConfigError if DNS is not set."""
    return partial(
        query_txt,
        config.required_dns(),
        server=config.dns_server,
        timeout_seconds=_DNS_SECONDS,
        require_ad=config.dns_require_ad,
    )


def make_keys(config: Config) -> Keys:
    """Join the ring file with DNS. Raises ConfigError if DNS is not set."""
    return Keys(RingFile(config.ring_file), make_ask(config), random.random)


def rsgi() -> _Worker:
    """Make the application of one worker; granian calls this in each."""
    log_to_stderr()
    _die_with_parent()
    return _Worker(configured())


def wsgi() -> wsgi_bridge.WsgiApp:
    """Make the application for any other WSGI server (one process, several threads), and the database if need be."""
    config = configured()
    migrating.migrate(config.database, config.backup_dir, clock())
    services, writer, keys = _services(config, _deliver_directly)
    keys.refresh_or_log(clock())
    writer.start()
    app: wsgi_bridge.WsgiApp = make_app(services)
    return app


def log_to_stderr(level: int = logging.INFO) -> None:
    """Log plain lines; systemd adds the time and the unit."""
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
    # Its lines tell of each migration step that was looked at.
    logging.getLogger("alembic").setLevel(logging.WARNING)


class _Worker:
    """One worker of the server: builds its parts when its event loop starts."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="dns")
        self._pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="bottle")
        self._refreshing: asyncio.Task[None] | None = None
        self._door: Door | None = None
        self._writer: Writer | None = None

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        services, self._writer, keys = _services(self._config, deliver_in(loop))
        call = partial(wsgi_bridge.call, make_app(services))
        self._door = Door(services.intake, keys, self._writer, call, self._pool, self._asking, clock)
        self._writer.start()
        _collect_rarely()
        self._asking.submit(keys.refresh_or_log, clock())
        self._refreshing = loop.create_task(self._keep_fresh(keys))
        _log.info("worker %d takes reports", os.getpid())

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
        if self._writer is not None:
            self._writer.stop()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        assert self._door is not None, "granian initialises before it serves"  # noqa: S101
        await self._door.__rsgi__(scope, protocol)

    async def _keep_fresh(self, keys: Keys) -> None:
        while True:
            await asyncio.sleep(_REFRESH_LOOK_SECONDS)
            await asyncio.get_running_loop().run_in_executor(self._asking, keys.refresh_if_due, clock())


def _services(config: Config, deliver: Deliver) -> tuple[Services, Writer, Keys]:
    store, counters, keys = Store(config.database), Counters(), make_keys(config)
    beside = Sideline(counters, os.getpid(), clock)
    writer = Writer(store.engine, store.lock, deliver, beside)
    services = Services(
        intake=Intake(counters, clock),
        keys=keys,
        writer=writer,
        store=store,
        clock=clock,
        interval_ms=config.interval_seconds * 1000,
        pages_dir=config.pages_dir,
        read_token=config.read_token,
        admin_token=config.admin_token,
        version=version(),
    )
    return services, writer, keys


def _deliver_directly(results: Sequence[tuple[Any, Filed]]) -> None:
    for future, filed in results:
        future.set_result(filed)


def _collect_rarely() -> None:
    # A report is some hundred objects without cycles. Looking through them again and again took more time than
    # decoding.
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS, 50, 50)


def _die_with_parent() -> None:
    # A worker that outlives its parent would hold the port against the next start (prctl(2), Linux alone).
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # One whose parent had ended before that is told nothing.
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        sys.exit(1)


def make_seen(config: Config, snapshot: Snapshot, now: int) -> Seen:
    """Join a snapshot with what else a page shows, for the commands that show the same in a terminal."""
    watch = Watch(config.interval_seconds * 1000, now, snapshot.listening)
    return Seen(snapshot, _names_of_keys(config.ring_file), watch, _source(config))


def make_publisher(config: Config) -> Publisher:
    """Join the parts of publishing. Raises DatabaseUnusableError."""
    settings = Settings(
        interval_ms=config.interval_seconds * 1000,
        limits=Limits(config.retention_days * _DAY_MS, config.retention_bytes),
        source=_source(config),
    )
    read_keys = partial(_names_of_keys, config.ring_file)
    return Publisher(open_existing(config.database), Website(config.pages_dir), read_keys, settings)


def publish_once(publisher: Publisher) -> Done:
    """Publish, and prune all that is due."""
    return publisher.cycle(clock(), _pause)


def _pause() -> bool:
    time.sleep(_PRUNE_PAUSE_SECONDS)
    return True


def publish_every(config: Config, seconds: float) -> None:
    """Publish in a cycle of so many seconds until SIGTERM or SIGINT; a slow cycle delays the next, none is made up."""
    stop = _Stop(Signals(signal.SIGTERM, signal.SIGINT))
    publisher = _publisher_once_possible(config, stop, seconds)
    while publisher is not None and not stop.wait(0):
        began = time.monotonic()
        publisher.cycle(clock(), partial(_may_prune_on, stop, began + seconds))
        stop.wait(max(0.0, began + seconds - time.monotonic()))


@dataclass(slots=True)
class _Stop:
    """Whether the process was told to stop."""

    signals: Signals
    is_told: bool = False

    def wait(self, seconds: float) -> bool:
        """Wait for it that long; once it was told, no longer."""
        self.is_told = self.is_told or self.signals.wait(seconds) is not None
        return self.is_told


def _publisher_once_possible(config: Config, stop: _Stop, seconds: float) -> Publisher | None:
    """Wait for the database that the server makes; the two may be started in any order."""
    told = ""
    while not stop.wait(0):
        try:
            return make_publisher(config)
        except DatabaseUnusableError as error:
            if str(error) != told:
                told = str(error)
                _publish_log.warning("waiting: %s", told)
        stop.wait(seconds)
    return None


def _may_prune_on(stop: _Stop, end: float) -> bool:
    return not stop.wait(_PRUNE_PAUSE_SECONDS) and time.monotonic() < end


def _names_of_keys(ring_file: Path) -> tuple[KeyName, ...] | None:
    try:
        entries = RingFile(ring_file).read().ring.entries
    except RingFileError:
        # The server, which needs the keys, logs why; the pages say that they are not known.
        return None
    return tuple(KeyName(entry.key.fingerprint, entry.first_seen_at, entry.last_used_at) for entry in entries)


def _source(config: Config) -> Source:
    return Source(socket.gethostname(), config.database.name, version())
