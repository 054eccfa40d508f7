"""The cycle of publishing: read, compare, write alarms, interfaces and edges, render, prune.

May live here: the order of these steps, what one of them failing means for the others, and what is logged of it. It
shares nothing with the server but the database, and waits for nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from kattila_manager import wording
from kattila_manager.alarms import alarm_rules
from kattila_manager.alarms.alarm_rules import Closed, Event, Opened
from kattila_manager.pages import index_page
from kattila_manager.pages.index_page import Seen, Source
from kattila_manager.publishing.website import Website
from kattila_manager.records import KeyName, Snapshot
from kattila_manager.store.admin import retention
from kattila_manager.store.admin.retention import Limits
from kattila_manager.store.publish import alarm_log, edges
from kattila_manager.store.read.snapshots import snapshot
from kattila_manager.store.store import Store
from kattila_manager.topology import relay_edges
from kattila_manager.topology.presence import Watch
from kattila_protocol.report import Report

# Agents whose interfaces are written in one transaction: some milliseconds under the write lock.
_SLICE_AGENTS = 100
# How often it is looked for reports that are over a limit, once all of them are gone.
_PRUNE_MS = 60 * 1000

_log = logging.getLogger("kattila.publish")

ReadKeys = Callable[[], Sequence[KeyName] | None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What publishing is told: the agents' report interval, how much is kept, and what the pages say they come from."""

    interval_ms: int
    limits: Limits
    source: Source


@dataclass(slots=True)
class Done:
    """What one cycle did."""

    agents: int = 0
    opened: int = 0
    closed: int = 0
    pages: int = 0
    pruned: int = 0
    failures: tuple[str, ...] = ()


class Publisher:
    """One publisher; what it remembers between cycles is only to save work."""

    def __init__(self, store: Store, website: Website, read_keys: ReadKeys, settings: Settings) -> None:
        """Join the database, the website, and what tells the names of the ring's keys (None: it cannot be read)."""
        self._store = store
        self._website = website
        self._read_keys = read_keys
        self._settings = settings
        self._reports: Mapping[int, Report] = {}
        self._prune_at = 0
        self._failing: dict[str, str] = {}

    def cycle(self, now: int, go_on: Callable[[], bool]) -> Done:
        """Do all that is to be done at `now` (ms UTC); `go_on` bounds the pruning (see `retention.prune`).

        Never raises: what fails is logged once, and again when it works; the other steps are still done.
        """
        done = Done()
        self._step("reading the database", lambda: self._publish(now, done), done)
        self._step("pruning", lambda: self._prune(now, go_on, done), done)
        return done

    def _publish(self, now: int, done: Done) -> None:
        with self._store.publishing():
            keys, seen = self._read_keys(), self._read(now)
            watch = Watch(self._settings.interval_ms, now, seen.listening)
            done.agents = len(seen.agents)
            self._step("writing alarms", lambda: self._raise_alarms(seen, keys, watch, done), done)
            self._step("writing interfaces", lambda: self._write_interfaces(seen), done)
            self._step("writing edges", lambda: self._write_edges(seen, watch), done)
            self._step("rendering the pages", lambda: self._render(keys, watch, done), done)

    def _read(self, now: int) -> Snapshot:
        seen = self._store.read(lambda connection: snapshot(connection, self._reports, now))
        self._reports = seen.reports
        return seen

    def _raise_alarms(self, seen: Snapshot, keys: Sequence[KeyName] | None, watch: Watch, done: Done) -> None:
        events = (
            *alarm_rules.compare(seen.open_alarms, alarm_rules.findings(seen, keys, watch), watch.now),
            *alarm_rules.amend(seen.closed_alarms, seen.late),
        )
        if not events:
            return
        self._store.write(lambda connection: alarm_log.record(connection, events))
        done.opened = sum(isinstance(event, Opened) for event in events)
        done.closed = sum(isinstance(event, Closed) for event in events)
        names = {agent.agent_id: alarm_rules.name_of(agent) for agent in seen.agents}
        for event in events:
            _tell(event, names)

    def _write_interfaces(self, seen: Snapshot) -> None:
        outdated = self._store.read(alarm_log.outdated_interfaces)
        known = [(one, seen.reports[one.report_id].telemetry) for one in outdated if one.report_id in seen.reports]
        due = [(one, telemetry.interfaces) for one, telemetry in known if telemetry.interfaces or one.has_rows]
        for start in range(0, len(due), _SLICE_AGENTS):
            part = due[start : start + _SLICE_AGENTS]
            self._store.write(partial(alarm_log.replace_interfaces, measured=part))

    def _write_edges(self, seen: Snapshot, watch: Watch) -> None:
        forget_before = watch.now - self._settings.limits.age_ms
        changes = relay_edges.compare(seen.edges, relay_edges.infer(seen, watch), forget_before)
        if changes:
            self._store.write(lambda connection: edges.write(connection, changes))

    def _render(self, keys: Sequence[KeyName] | None, watch: Watch, done: Done) -> None:
        # Read again, so that the page shows the alarms that were just raised.
        seen = Seen(self._read(watch.now), keys, watch, self._settings.source)
        done.pages = self._website.publish(index_page.build(seen))

    def _prune(self, now: int, go_on: Callable[[], bool], done: Done) -> None:
        if 0 <= self._prune_at - now <= _PRUNE_MS:
            return
        going = True

        def may_go_on() -> bool:
            nonlocal going
            going = go_on()
            return going

        done.pruned = retention.prune(self._store.engine, self._store.lock, self._settings.limits, now, may_go_on)
        self._prune_at = now + _PRUNE_MS if going else 0

    def _step(self, name: str, step: Callable[[], None], done: Done) -> bool:
        try:
            step()
        except Exception as error:
            reason = f"{name} failed: {type(error).__name__}: {error}"
            done.failures += (reason,)
            if self._failing.get(name) != reason:
                self._failing[name] = reason
                _log.error("%s (tried again in every cycle)", reason)
            return False
        if self._failing.pop(name, None) is not None:
            _log.info("%s works again", name)
        return True


def _tell(event: Event, names: Mapping[str, str]) -> None:
    if isinstance(event, Opened):
        kind, agent_id = event.subject
        _log.warning("alarm opened: %s, %s: %s", kind, _whom(agent_id, names), wording.shown(event.detail, 500))
    elif isinstance(event, Closed):
        _log.info("alarm closed: %s, %s", event.alarm.kind, _whom(event.alarm.agent_id, names))


def _whom(agent_id: str | None, names: Mapping[str, str]) -> str:
    if agent_id is None:
        return "unknown sender"
    return f"{names[agent_id]} ({wording.short_id(agent_id)})" if agent_id in names else agent_id
