"""Joins the parts of publishing, for the process that publishes and for the operator's commands.

May live here: construction, and the loop with its clock and signals. Apart from compose, so that a server's worker
carries nothing of it.
"""

from __future__ import annotations

import logging
import signal
import socket
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kattila_keys.ring_file import RingFile, RingFileError
from kattila_manager import compose
from kattila_manager.config import Config
from kattila_manager.pages import Seen, Source
from kattila_manager.presence import Watch
from kattila_manager.publishing import Done, Publisher, Settings
from kattila_manager.records import KeyName, Snapshot
from kattila_manager.store.database import DatabaseUnusableError
from kattila_manager.store.retention import Limits
from kattila_manager.store.store import open_existing
from kattila_manager.website import Website
from kattila_settings.signals import Signals

_DAY_MS = 24 * 60 * 60 * 1000
# Between two slices of pruning, so that whoever waits for the write lock gets it.
_PRUNE_PAUSE_SECONDS = 0.02

_log = logging.getLogger("kattila.publish")


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
    return publisher.cycle(compose.clock(), _pause)


def _pause() -> bool:
    time.sleep(_PRUNE_PAUSE_SECONDS)
    return True


def publish_every(config: Config, seconds: float) -> None:
    """Publish in a cycle of so many seconds until SIGTERM or SIGINT; a slow cycle delays the next, none is made up."""
    stop = _Stop(Signals(signal.SIGTERM, signal.SIGINT))
    publisher = _publisher_once_possible(config, stop, seconds)
    while publisher is not None and not stop.wait(0):
        began = time.monotonic()
        publisher.cycle(compose.clock(), partial(_may_prune_on, stop, began + seconds))
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
                _log.warning("waiting: %s", told)
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
    return Source(socket.gethostname(), config.database.name, compose.version())
