"""Builds the manager's objects for one process: a server's worker, the publisher, or a command."""

from __future__ import annotations

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
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread

from kattila_keys.dns import query_txt
from kattila_keys.dns_server import TxtRecords
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile, RingFileError
from kattila_manager.api.app import ApiSettings, Endpoints
from kattila_manager.config import Config, read_config
from kattila_manager.ingest.rsgi_app import REFRESH_CHECK_SECONDS, RsgiApp
from kattila_manager.ingest.update_handler import UpdateHandler
from kattila_manager.ingest.wsgi_bridge import WsgiApp
from kattila_manager.pages.index_page import PageData, Source
from kattila_manager.publishing.publisher import CycleResult, Publisher, PublishSettings
from kattila_manager.publishing.website import Website
from kattila_manager.records import Ambiguity, KeyName, Snapshot
from kattila_manager.store.admin import migrating
from kattila_manager.store.admin.retention import RetentionLimits
from kattila_manager.store.database import DatabaseUnusableError
from kattila_manager.store.ingest.admission import AdmissionLimits
from kattila_manager.store.ingest.refusal_counters import RefusalCounters
from kattila_manager.store.ingest.worker_status import WorkerStatus
from kattila_manager.store.ingest.writer import Writer
from kattila_manager.store.read import queries
from kattila_manager.store.store import Store, open_existing
from kattila_manager.topology.presence import Watch
from kattila_settings import logs
from kattila_settings.failures import Failures, described, keep_running
from kattila_settings.privileges import refuse_folder_of_others
from kattila_settings.signals import Signals

_DNS_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
# The environment variable that holds the process id of a worker's parent.
PARENT = "KATTILA_MANAGER_PARENT"
# A few hundred reports.
_GC_OBJECTS = 50_000
# Whenever the event loop or the writer wakes up, a thread that decodes a large report keeps it waiting for this long
# instead of 5 ms.
_SWITCH_SECONDS = 0.001

_DAY_MS = 24 * 60 * 60 * 1000
# Pause between two slices of pruning, so that other writers get the lock.
_PRUNE_PAUSE_SECONDS = 0.02

_PUBLISHING = "publishing"

_log = logging.getLogger("kattila.publish")


def clock() -> int:
    """Return the time in ms UTC."""
    return time.time_ns() // 1_000_000


def configured(env_file: str | None = None) -> Config:
    """Return the settings of this process. Raises ConfigError."""
    return read_config(env_file, os.environ, working_folder())


def working_folder() -> Path:
    """Return the working folder; if it was removed, a relative path, in which nothing can be found."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path()


def version() -> str:
    """Return the version of this program."""
    return importlib.metadata.version("kattila-manager")


def log_to_stderr(level: int = logging.INFO) -> None:
    """Log plain lines; systemd adds the time and the unit."""
    logs.log_to_stderr(level, "%(levelname)s %(name)s: %(message)s", force=True)
    # Its INFO lines list every migration step that it checks.
    logging.getLogger("alembic").setLevel(logging.WARNING)


# --- Keys


def make_query(config: Config) -> Callable[[], TxtRecords]:
    """Make the DNS query for the PSK. Raises ConfigError if DNS is not set."""
    return partial(
        query_txt,
        config.required_dns(),
        server=config.dns_server,
        timeout_seconds=_DNS_SECONDS,
        require_ad=config.dns_require_ad,
    )


def make_keys(config: Config) -> Keys:
    """Make the ring that is kept in the ring file and refreshed from DNS. Raises ConfigError if DNS is not set."""
    return Keys(RingFile(config.ring_file), make_query(config), random.random)


def _key_names(ring_file: Path) -> tuple[KeyName, ...] | None:
    try:
        stored = RingFile(ring_file).read()
    except RingFileError:
        # The server, which needs the keys, logs the reason. The pages show that they are unknown.
        return None
    return tuple(
        KeyName(entry.key.fingerprint, entry.first_seen_at, entry.last_used_at, None if place else stored.current_since)
        for place, entry in enumerate(stored.ring.entries)
    )


def _ambiguity(ring_file: Path) -> Ambiguity | None:
    try:
        stored = RingFile(ring_file).read()
    except RingFileError:
        return None
    if stored.ambiguous_since is None:
        return None
    return Ambiguity(stored.candidates, stored.ambiguous_since)


# --- Serving


def rsgi() -> RsgiApp:
    """Make the application of one worker; granian calls this in each worker process."""
    log_to_stderr()
    _die_with_parent()
    config = configured()
    key_thread = ThreadPoolExecutor(1, thread_name_prefix="dns")
    writer, keys, updates, wsgi_app = _serving_parts(config, key_thread)
    app = RsgiApp(updates, wsgi_app, writer, keys, key_thread, clock)
    _collect_rarely()
    sys.setswitchinterval(_SWITCH_SECONDS)
    return app


def wsgi() -> WsgiApp:
    """Make the application for another WSGI server (one process, several threads); create the database if needed."""
    config = configured()
    migrating.migrate(config.database, config.backup_dir, clock())
    key_thread = ThreadPoolExecutor(1, thread_name_prefix="dns")
    writer, keys, _, wsgi_app = _serving_parts(config, key_thread)
    keys.refresh_or_log(clock())
    Thread(target=_keep_fresh, args=(keys, Event().wait), daemon=True, name="keys").start()
    writer.start()
    return wsgi_app


def _keep_fresh(keys: Keys, pause: Callable[[float], object]) -> None:
    def refresh() -> bool:
        pause(REFRESH_CHECK_SECONDS)
        keys.refresh_if_due(clock())
        return True

    keep_running(refresh, "refreshing the keys", Failures(logging.getLogger("kattila.manager")), pause)


def _serving_parts(config: Config, key_thread: Executor) -> tuple[Writer, Keys, UpdateHandler, WsgiApp]:
    store, counters, keys = Store(config.database), RefusalCounters(), make_keys(config)
    status = WorkerStatus(counters, os.getpid(), clock)
    limits = AdmissionLimits(config.new_agents_per_minute, config.new_agents_per_source, config.max_agents)
    writer = Writer(store.engine, store.lock, status.write_due, limits)

    def is_known(agent_id: str) -> bool:
        return store.read(lambda connection: queries.has_agent(connection, agent_id))

    updates = UpdateHandler(keys, writer, counters, key_thread, clock, is_known)
    settings = ApiSettings(
        interval_ms=config.interval_seconds * 1000,
        pages_dir=config.pages_dir,
        read_token=config.read_token,
        admin_token=config.admin_token,
        version=version(),
        limits=limits,
    )
    wsgi_app: WsgiApp = Endpoints(updates, keys, store, settings, clock).app()
    return writer, keys, updates, wsgi_app


def _collect_rarely() -> None:
    # A report is a few hundred objects without cycles. Scanning them again and again took longer than decoding.
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS, 50, 50)


def _die_with_parent() -> None:
    # A worker that outlives its parent would hold the port against the next start (prctl(2), Linux only).
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # If the parent ended before that call, no signal comes.
    if os.environ.get(PARENT, str(os.getppid())) != str(os.getppid()):
        sys.exit(1)


# --- Publishing


def make_page_data(config: Config, snapshot: Snapshot, now: int) -> PageData:
    """Return the data that a page shows, for the commands that show the same in a terminal."""
    watch = Watch(config.interval_seconds * 1000, now, snapshot.listening)
    return PageData(snapshot, _key_names(config.ring_file), watch, _source(config))


def make_publisher(config: Config) -> Publisher:
    """Make the publisher. Raises DatabaseUnusableError, PrivilegesError."""
    settings = PublishSettings(
        interval_ms=config.interval_seconds * 1000,
        limits=RetentionLimits(config.retention_days * _DAY_MS, config.retention_bytes),
        source=_source(config),
    )
    # Its entries may belong to others, but it must stay this folder.
    refuse_folder_of_others(config.pages_dir.parent)
    read_keys, read_ambiguity = partial(_key_names, config.ring_file), partial(_ambiguity, config.ring_file)
    return Publisher(open_existing(config.database), Website(config.pages_dir), read_keys, settings, read_ambiguity)


def publish_once(publisher: Publisher) -> CycleResult:
    """Publish once, and prune everything that is due."""
    return publisher.cycle(clock(), _pause)


def publish_every(config: Config, seconds: float) -> None:
    """Publish every `seconds` until SIGTERM or SIGINT; a slow cycle delays the next one."""
    stop = _Stop(Signals(signal.SIGTERM, signal.SIGINT))
    failures = Failures(_log)
    publisher = _wait_for_publisher(config, stop, seconds, failures)
    while publisher is not None and not stop.wait(0):
        started = time.monotonic()
        with failures.guard(_PUBLISHING):
            publisher.cycle(clock(), partial(_may_prune, stop, started + seconds))
        stop.wait(max(0.0, started + seconds - time.monotonic()))


@dataclass(slots=True)
class _Stop:
    """Whether a stop signal arrived."""

    signals: Signals
    is_set: bool = False

    def wait(self, seconds: float) -> bool:
        """Wait for a signal up to `seconds`; return at once if one arrived before."""
        self.is_set = self.is_set or self.signals.wait(seconds) is not None
        return self.is_set


def _wait_for_publisher(config: Config, stop: _Stop, seconds: float, failures: Failures) -> Publisher | None:
    """Wait until the database can be used, which the server creates; return None if a stop signal arrives first."""
    while not stop.wait(0):
        try:
            publisher = make_publisher(config)
        except Exception as error:
            reason = str(error) if isinstance(error, DatabaseUnusableError) else described(error)
            failures.failed(_PUBLISHING, f"waiting: {reason}", level=logging.WARNING)
        else:
            failures.worked(_PUBLISHING, f"publishing, now that {config.database} can be used")
            return publisher
        stop.wait(seconds)
    return None


def _may_prune(stop: _Stop, end: float) -> bool:
    return not stop.wait(_PRUNE_PAUSE_SECONDS) and time.monotonic() < end


def _pause() -> bool:
    time.sleep(_PRUNE_PAUSE_SECONDS)
    return True


def _source(config: Config) -> Source:
    return Source(socket.gethostname(), config.database.name, version())
