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
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from kattila_keys.dns import Records, ask_txt
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile
from kattila_manager import bridge
from kattila_manager.app import Services, make_app
from kattila_manager.config import Config, read_config
from kattila_manager.counters import Counters
from kattila_manager.door import Door, deliver_in
from kattila_manager.intake import Intake
from kattila_manager.records import Filed
from kattila_manager.store import migrating
from kattila_manager.store.sideline import Sideline
from kattila_manager.store.store import Store
from kattila_manager.store.writer import Writer

_DNS_SECONDS = 5.0
_REFRESH_LOOK_SECONDS = 5.0
_POOL_THREADS = 4
_PR_SET_PDEATHSIG = 1
# The environment variable by which a worker knows whose it is.
PARENT = "KATTILA_MANAGER_PARENT"
# Some hundred reports.
_GC_OBJECTS = 50_000

_log = logging.getLogger("kattila.manager")

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


def make_ask(config: Config) -> Callable[[], Records]:
    """Make the question to DNS. Raises ConfigError if DNS is not set."""
    return partial(
        ask_txt,
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


def wsgi() -> bridge.WsgiApp:
    """Make the application for any other WSGI server (one process, several threads), and the database if need be."""
    config = configured()
    migrating.migrate(config.database, config.backup_dir, clock())
    services, writer, keys = _services(config, _deliver_directly)
    keys.refresh_or_log(clock())
    writer.start()
    app: bridge.WsgiApp = make_app(services)
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
        call = partial(bridge.call, make_app(services))
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
