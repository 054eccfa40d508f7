"""One publishing cycle: read, compare, write alarms, interfaces and edges, render, prune.

It shares only the database with the server, and neither waits for the other. Alarms, agents and pages fail one by one:
a part that fails is logged once and tried again in the next cycle, and prevents no other part.
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
from kattila_manager.pages.index_page import PageData, Source
from kattila_manager.publishing.website import Website
from kattila_manager.records import Ambiguity, KeyName, ReportSummary, Snapshot
from kattila_manager.store.admin import registry_retention, retention
from kattila_manager.store.admin.retention import RetentionLimits
from kattila_manager.store.publish import alarm_log, edges, interfaces
from kattila_manager.store.read.snapshots import read_snapshot
from kattila_manager.store.store import Store
from kattila_manager.topology import relay_edges
from kattila_manager.topology.presence import Watch
from kattila_settings.failures import Failures

# How often to look for reports to prune, once all of them are gone.
_PRUNE_MS = 60 * 1000
# The parts of one step whose failures are logged, one by one. Further ones are only counted.
_MOST_NAMED = 20
_REASON_LENGTH = 500

_log = logging.getLogger("kattila.publish")

ReadKeys = Callable[[], Sequence[KeyName] | None]


@dataclass(frozen=True, slots=True)
class PublishSettings:
    """The agents' report interval, how much to keep, and the source that pages name."""

    interval_ms: int
    limits: RetentionLimits
    source: Source


@dataclass(slots=True)
class CycleResult:
    """The outcome of one cycle, in counts."""

    agents: int = 0
    opened: int = 0
    closed: int = 0
    pages: int = 0
    pruned: int = 0
    failures: tuple[str, ...] = ()


class Publisher:
    """Runs cycles; its memory between cycles only saves work."""

    def __init__(
        self,
        store: Store,
        website: Website,
        read_keys: ReadKeys,
        settings: PublishSettings,
        read_ambiguity: Callable[[], Ambiguity | None] = lambda: None,
    ) -> None:
        """Publish from this store to this website; `read_keys` returns None if the ring cannot be read."""
        self._read_ambiguity = read_ambiguity
        self._store = store
        self._website = website
        self._read_keys = read_keys
        self._settings = settings
        self._reports: Mapping[int, ReportSummary] = {}
        # The digest of each agent's interfaces that are in the database, by its `ref`.
        self._written: dict[int, int] = {}
        self._prune_at = 0
        self._failing = Failures(_log)

    def cycle(self, now: int, may_continue: Callable[[], bool]) -> CycleResult:
        """Run all steps at `now` (ms UTC); `may_continue` bounds the pruning (see `retention.prune`).

        Never raises. A failure is logged once, and again when the step works; the other steps still run.
        """
        result = CycleResult()
        self._step("reading the database", lambda: self._publish(now, result), result)
        self._step("pruning", lambda: self._prune(now, may_continue, result), result)
        return result

    def _publish(self, now: int, result: CycleResult) -> None:
        with self._store.publishing():
            keys, snapshot = self._read_keys(), self._read(now)
            watch = Watch(self._settings.interval_ms, now, snapshot.listening)
            result.agents = len(snapshot.agents)
            self._step("writing alarms", lambda: self._raise_alarms(snapshot, keys, watch, result), result)
            self._step("writing interfaces", lambda: self._write_interfaces(snapshot, result), result)
            self._step("writing edges", lambda: self._write_edges(snapshot, watch, result), result)
            self._step("rendering the pages", lambda: self._render(keys, watch, result), result)

    def _read(self, now: int) -> Snapshot:
        snapshot = self._store.read(lambda connection: read_snapshot(connection, self._reports, now))
        self._reports = snapshot.reports
        return snapshot

    def _raise_alarms(
        self, snapshot: Snapshot, keys: Sequence[KeyName] | None, watch: Watch, result: CycleResult
    ) -> None:
        findings = alarm_rules.find_evidence(snapshot, keys, watch, self._read_ambiguity())
        events = (
            *alarm_rules.compare(snapshot.open_alarms, findings, watch.now),
            *alarm_rules.amend(snapshot.closed_alarms, snapshot.late),
        )
        unwritten = dict(self._store.write(lambda connection: alarm_log.record(connection, events)) if events else ())
        written = [event for event in events if event not in unwritten]
        result.opened = sum(isinstance(event, Opened) for event in written)
        result.closed = sum(isinstance(event, Closed) for event in written)
        names = {agent.agent_id: alarm_rules.name_of(agent) for agent in snapshot.agents}
        for event in written:
            _log_event(event, names)
        failed = {alarm_rules.subject_of(event): error for event, error in unwritten.items()} | dict(findings.failed)
        self._note_parts("alarm", {_alarm_text(*subject, names): failed[subject] for subject in failed}, result)

    def _write_interfaces(self, snapshot: Snapshot, result: CycleResult) -> None:
        ids = {agent.ref: agent.agent_id for agent in snapshot.agents}
        self._written = {ref: digest for ref, digest in self._written.items() if ref in ids}
        failed: dict[str, Exception] = {}
        unwritten = self._store.read(lambda connection: list(interfaces.unwritten(connection, snapshot, self._written)))
        for part in unwritten:
            changed = self._store.read(partial(interfaces.changed_interfaces, agents=part))
            errors = self._store.write(partial(interfaces.replace_interfaces, changed=changed)) if changed else ()
            failed |= {ids[ref]: error for (ref, _, _), error in errors}
            for agent in part:
                report = snapshot.report_of(agent)
                if report and agent.agent_id not in failed:
                    self._written[agent.ref] = report.interfaces_digest
        self._note_parts("writing the interfaces of", failed, result)

    def _write_edges(self, snapshot: Snapshot, watch: Watch, result: CycleResult) -> None:
        forget_before = watch.now - self._settings.limits.age_ms
        changes = relay_edges.compare(snapshot.edges, relay_edges.infer(snapshot, watch), forget_before)
        failed = self._store.write(lambda connection: edges.write(connection, changes)) if changes else ()
        self._note_parts("writing the edge", {f"{edge.kind} {edge.pair}": error for edge, error in failed}, result)

    def _render(self, keys: Sequence[KeyName] | None, watch: Watch, result: CycleResult) -> None:
        # Read again, so that the page shows the alarms that were just raised.
        data = PageData(self._read(watch.now), keys, watch, self._settings.source)
        published = self._website.publish(index_page.build(data))
        result.pages = published.changed
        self._note_parts("rendering page", published.failed, result)

    def _prune(self, now: int, may_continue: Callable[[], bool], result: CycleResult) -> None:
        if 0 <= self._prune_at - now <= _PRUNE_MS:
            return
        is_complete = True

        def may_prune_more() -> bool:
            nonlocal is_complete
            is_complete = may_continue()
            return is_complete

        limits, engine, lock = self._settings.limits, self._store.engine, self._store.lock
        result.pruned = retention.prune(engine, lock, limits, now, may_prune_more)
        if is_complete:
            registry_retention.prune(engine, lock, limits.age_ms, now, may_prune_more)
        self._prune_at = now + _PRUNE_MS if is_complete else 0

    def _step(self, name: str, step: Callable[[], None], result: CycleResult) -> None:
        try:
            step()
        except Exception as error:
            self._note_failure(name, error, result)
        else:
            self._failing.worked(name)

    def _note_parts(self, doing: str, failed: Mapping[str, Exception], result: CycleResult) -> None:
        """Log the parts of a step that failed in this cycle, and those that work again."""
        names = {f"{doing} {part}": error for part, error in failed.items()}
        for name in self._failing.failing:
            if name.startswith(f"{doing} ") and name not in names:
                self._failing.worked(name)
        for name, error in list(names.items())[:_MOST_NAMED]:
            self._note_failure(name, error, result)
        if len(names) > _MOST_NAMED:
            result.failures += (f"{doing} {len(names) - _MOST_NAMED:,} more failed",)

    def _note_failure(self, name: str, error: Exception, result: CycleResult) -> None:
        reason = wording.shown(f"{name} failed: {type(error).__name__}: {error}", _REASON_LENGTH)
        result.failures += (reason,)
        self._failing.failed(name, f"{reason} (retried in every cycle)")


def _log_event(event: Event, names: Mapping[str, str]) -> None:
    if isinstance(event, Opened):
        kind, agent_id = event.subject
        whom = _agent_text(kind, agent_id, names)
        _log.warning("alarm opened: %s, %s: %s", kind, whom, wording.shown(event.detail, 500))
    elif isinstance(event, Closed):
        whom = _agent_text(event.alarm.kind, event.alarm.agent_id, names)
        _log.info("alarm closed: %s, %s", event.alarm.kind, whom)


def _alarm_text(kind: str, agent_id: str | None, names: Mapping[str, str]) -> str:
    return f"{kind} of {_agent_text(kind, agent_id, names)}"


def _agent_text(kind: str, agent_id: str | None, names: Mapping[str, str]) -> str:
    if agent_id is None:
        return alarm_rules.OWNERS.get(kind, "unknown sender")
    return f"{names[agent_id]} ({wording.short_id(agent_id)})" if agent_id in names else agent_id
