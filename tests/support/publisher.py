"""Runs the publisher on a test database, and reads its page and its alarms."""

from __future__ import annotations

from pathlib import Path

from kattila_manager.publishing.publisher import CycleResult, Publisher, PublishSettings
from kattila_manager.publishing.website import Website
from kattila_manager.records import Alarm, KeyName
from kattila_manager.store.admin.retention import RetentionLimits
from kattila_manager.store.read import queries
from support.fleet import DAY, NOON, SECOND, Fleet
from support.reports import KEY, node
from support.snapshots import SOURCE

MIB = 1024 * 1024
PLENTY = RetentionLimits(30 * DAY, 1024 * MIB)
KEYS = (KeyName(KEY.fingerprint, NOON - DAY, NOON),)
ONE, TWO = node(1), node(2)


def publisher(fleet: Fleet, limits: RetentionLimits = PLENTY, templates: Path | None = None) -> Publisher:
    folder = fleet.database.with_name("pages")
    website = Website(folder) if templates is None else Website(folder, templates)
    return Publisher(fleet.store, website, lambda: KEYS, PublishSettings(30 * SECOND, limits, SOURCE))


def cycle(fleet: Fleet, now: int = NOON, limits: RetentionLimits = PLENTY) -> CycleResult:
    """Run the first cycle of a new publisher."""
    return publisher(fleet, limits).cycle(now, lambda: True)


def page(fleet: Fleet) -> str:
    return fleet.database.with_name("pages").joinpath("index.html").read_text()


def opened(fleet: Fleet) -> tuple[Alarm, ...]:
    return fleet.store.read(queries.open_alarms)


def listen(fleet: Fleet, now: int) -> None:
    """Set the last heartbeat of the server to `now`."""
    fleet.change("UPDATE receivers SET alive_at = ?", now)
