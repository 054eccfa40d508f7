"""Builds the index page from a snapshot: everything that it shows, as text and in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from kattila_manager import wording
from kattila_manager.alarms.alarm_rules import OWNERS, AlarmKind, is_on_other_key, name_of
from kattila_manager.records import Agent, Alarm, KeyName, ReportSummary, Snapshot
from kattila_manager.topology.newcomers import crowd
from kattila_manager.topology.presence import Presence, Watch, presence

_MOST_LABELS = 12
_LABEL_LENGTH = 48
_VERSION_LENGTH = 32
_DETAIL_LENGTH = 600
# A page reloads every few seconds, so it must stay small. 'kattila-manager agents' and 'alarms' show everything.
MOST_AGENTS = 1000
MOST_ALARMS = 100
# Problems first.
_ORDER = (Presence.SILENT, Presence.UNHEARD, Presence.RELAYED, Presence.REPORTING)
_TITLES: dict[str, str] = {
    AlarmKind.BAD_SIGNATURE: "Bad signature",
    AlarmKind.REPLAY: "Replay",
    AlarmKind.CLOCK_SKEW: "Clock skew",
    AlarmKind.IDENTITY_CONFLICT: "Identity conflict",
    AlarmKind.IMPOSSIBLE_NUMBERS: "Impossible numbers",
    AlarmKind.PREVIOUS_KEY: "Previous key",
    AlarmKind.AGENT_SILENT: "Agent silent",
    AlarmKind.SAMPLES_DROPPED: "Samples dropped",
    AlarmKind.RECORD_AMBIGUOUS: "Record ambiguous",
    AlarmKind.MANY_NEW_AGENTS: "Many new agents",
}


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a page: the manager's host, database and version."""

    host: str
    database: str
    version: str


@dataclass(frozen=True, slots=True)
class PageData:
    """The data of a page: the snapshot, the ring's keys (None: unreadable), the time, and the source."""

    snapshot: Snapshot
    keys: Sequence[KeyName] | None
    watch: Watch
    source: Source


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as text, for machines, and as an age at the time of rendering."""

    text: str
    machine: str
    ago: str


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One agent; `key_is` is "current", "previous", or "" if the ring is unknown.

    `spool` counts the samples that wait on its disk and those it dropped; "" if there are none.
    """

    agent_id: str
    short_id: str
    name: str
    state: str
    last_report: Moment
    arrives: str
    spool: str
    fingerprint: str
    key_is: str
    version: str
    clock_offset: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """One alarm; `agent_id` is the agent's row on the page, "" if there is none."""

    kind: str
    title: str
    agent_id: str
    agent: str
    opened: Moment
    last: Moment
    closed: Moment | None
    count: str
    detail: str


@dataclass(frozen=True, slots=True)
class Index:
    """The index page; `counts` are pairs of a number and its label.

    `more_agents` and `more_alarms` count the rows that are missing, "" if none is.
    `level` is "good", "bad", "unknown", or "impaired": all agents report, but some only through relays.
    """

    verdict: str
    level: str
    notes: tuple[str, ...]
    counts: tuple[tuple[str, str], ...]
    agents: tuple[AgentRow, ...]
    more_agents: str
    open_alarms: tuple[AlarmRow, ...]
    more_alarms: str
    closed_alarms: tuple[AlarmRow, ...]
    rendered: Moment
    heartbeat: Moment | None
    source: Source


@dataclass(frozen=True, slots=True)
class Page:
    """A file of the site: its path, its template, and what makes the view that the template gets as `page`."""

    path: str
    template: str
    make_view: Callable[[], object]


def build(data: PageData) -> tuple[Page, ...]:
    """Return all pages of the site. Their views are made later, so that one that fails prevents no other."""
    return (Page("index.html", "index.html", partial(index, data)),)


def index(data: PageData) -> Index:
    """Return the view of the first page."""
    snapshot, watch = data.snapshot, data.watch
    crowded = crowd(snapshot.agents)
    listed = [agent for agent in snapshot.agents if agent.agent_id not in crowded]
    states = Counter(presence(agent, watch) for agent in listed)
    verdict, level = _verdict(snapshot, states, watch)
    rows = agent_rows(data, listed)
    return Index(
        verdict=verdict,
        level=level,
        notes=_notes(data),
        counts=_counts(snapshot, states),
        agents=rows[:MOST_AGENTS],
        more_agents=_more_agents(rows, snapshot, crowded, watch),
        open_alarms=alarm_rows(snapshot.open_alarms[:MOST_ALARMS], listed, watch.now),
        more_alarms=_more_alarms(len(snapshot.open_alarms) - MOST_ALARMS),
        closed_alarms=alarm_rows(snapshot.closed_alarms[:MOST_ALARMS], listed, watch.now),
        rendered=_moment(watch.now, watch.now),
        heartbeat=None if watch.listening is None else _moment(watch.listening[1], watch.now),
        source=data.source,
    )


def agent_rows(data: PageData, listed: Sequence[Agent] | None = None) -> tuple[AgentRow, ...]:
    """Return the listed agents, by default all, problems first, then by name."""
    names = _names(data.snapshot.agents)
    rows = [_agent_row(agent, data, names) for agent in (data.snapshot.agents if listed is None else listed)]
    order = [state.value for state in _ORDER]
    return tuple(sorted(rows, key=lambda row: (order.index(row.state), row.name, row.agent_id)))


def alarm_rows(alarms: Sequence[Alarm], agents: Sequence[Agent], now: int) -> tuple[AlarmRow, ...]:
    """Return the alarms in the given order, with the names of their agents."""
    names = _names(agents)
    return tuple(_alarm_row(alarm, names, now) for alarm in alarms)


def _agent_row(agent: Agent, data: PageData, names: Mapping[str, str]) -> AgentRow:
    report = data.snapshot.report_of(agent)
    relays = [names.get(relay, relay) for relay in agent.relay_path]
    return AgentRow(
        agent_id=agent.agent_id,
        short_id=wording.short_id(agent.agent_id),
        name=name_of(agent),
        state=presence(agent, data.watch).value,
        last_report=_moment(agent.last_seen_at, data.watch.now),
        arrives=wording.path_text(relays),
        spool=_spool(agent),
        fingerprint=agent.fingerprint,
        key_is=_key_is(agent, data.keys),
        version=wording.shown(agent.agent_version, _VERSION_LENGTH),
        clock_offset=wording.offset(agent.clock_offset),
        labels=_labels(report),
    )


def _spool(agent: Agent) -> str:
    parts = ((agent.waiting, "waiting"), (agent.dropped, "dropped"))
    return ", ".join(f"{number:,} {what}" for number, what in parts if number)


def _key_is(agent: Agent, keys: Sequence[KeyName] | None) -> str:
    if not keys or not agent.fingerprint:
        return ""
    return "previous" if is_on_other_key(agent, keys) else "current"


def _labels(report: ReportSummary | None) -> tuple[str, ...]:
    labels = report.labels if report else {}
    texts = [wording.shown(f"{name}={labels[name]}", _LABEL_LENGTH) for name in sorted(labels)[:_MOST_LABELS]]
    more = len(labels) - len(texts)
    return (*texts, f"and {more} more") if more else tuple(texts)


def _alarm_row(alarm: Alarm, names: Mapping[str, str], now: int) -> AlarmRow:
    known = alarm.agent_id in names
    return AlarmRow(
        kind=alarm.kind,
        title=_TITLES.get(alarm.kind, wording.shown(alarm.kind)),
        agent_id=alarm.agent_id if known and alarm.agent_id else "",
        agent=names.get(alarm.agent_id or "", wording.shown(alarm.agent_id or OWNERS.get(alarm.kind, ""))),
        opened=_moment(alarm.opened_at, now),
        last=_moment(alarm.last_at, now),
        closed=None if alarm.closed_at is None else _moment(alarm.closed_at, now),
        count=f"{alarm.count:,}",
        detail=wording.shown(alarm.detail, _DETAIL_LENGTH),
    )


_SERVER = "the manager's server (serve)"
_UNHEARD = (f"has not reported since {_SERVER} started", f"have not reported since {_SERVER} started")
_ONLY_RELAYED = ("reports only through relays", "report only through relays")


def _verdict(snapshot: Snapshot, states: Counter[Presence], watch: Watch) -> tuple[str, str]:
    total, alarms = states.total(), snapshot.open_alarms
    others = sum(alarm.kind != AlarmKind.AGENT_SILENT for alarm in alarms)
    bad = [
        *([_server_off(watch)] if not watch.is_on else []),
        *([_of(states[Presence.SILENT], total, "is silent", "are silent")] if states[Presence.SILENT] else []),
        *([_alarms_open(others, len(alarms) - others)] if others else []),
    ]
    unheard = [_of(states[Presence.UNHEARD], total, *_UNHEARD)] if states[Presence.UNHEARD] and watch.is_on else []
    relayed = [_of(states[Presence.RELAYED], total, *_ONLY_RELAYED)] if states[Presence.RELAYED] else []
    if bad:
        return _sentence([*bad, *relayed]), "bad"
    if not total:
        return "No agent has reported yet.", "unknown"
    if unheard or relayed:
        return _sentence([*unheard, *relayed]), "unknown" if unheard else "impaired"
    return ("The only agent reports." if total == 1 else f"All {total:,} agents report."), "good"


def _server_off(watch: Watch) -> str:
    if watch.listening is None:
        return f"{_SERVER} has never run"
    return f"{_SERVER} is not running, its last heartbeat was {_moment(watch.listening[1], watch.now).ago}"


def _of(count: int, total: int, one: str, many: str) -> str:
    return f"{count:,} of {wording.plural(total, 'agent')} {one if count == 1 else many}"


def _alarms_open(others: int, rest: int) -> str:
    other = "other " if rest else ""
    return f"{others:,} {other}{'alarm is' if others == 1 else 'alarms are'} open"


def _sentence(parts: Sequence[str]) -> str:
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _notes(data: PageData) -> tuple[str, ...]:
    damaged = len(data.snapshot.damaged)
    newest = f"The newest report of {wording.plural(damaged, 'agent')} cannot be read: run 'kattila-manager check'."
    ring = "The key ring cannot be read, so the keys of agents are not judged: run 'kattila-manager keys'."
    return (*([newest] if damaged else []), *([ring] if not data.keys else []))


def _counts(snapshot: Snapshot, states: Counter[Presence]) -> tuple[tuple[str, str], ...]:
    numbers = (
        (states.total(), "agents" if states.total() != 1 else "agent"),
        (states[Presence.REPORTING], "reporting"),
        (states[Presence.RELAYED], "relayed"),
        (states[Presence.SILENT], "silent"),
        *(((states[Presence.UNHEARD], "no report yet"),) if states[Presence.UNHEARD] else ()),
        (len(snapshot.open_alarms), "open alarms" if len(snapshot.open_alarms) != 1 else "open alarm"),
    )
    return tuple((f"{number:,}", label) for number, label in numbers)


def _more_agents(rows: Sequence[AgentRow], snapshot: Snapshot, crowded: frozenset[str], watch: Watch) -> str:
    """Return how many agents have no row, by state."""
    new = [presence(agent, watch) for agent in snapshot.agents if agent.agent_id in crowded]
    cut = [row.state for row in rows[MOST_AGENTS:]]
    parts = (
        *([f"{wording.plural(len(cut), 'more agent')} ({_each(Counter(cut))})"] if cut else []),
        *([f"{wording.plural(len(new), 'new agent')} ({_each(Counter(new))})"] if new else []),
    )
    return f"Not listed: {' and '.join(parts)}. 'kattila-manager agents' lists all." if parts else ""


def _each(states: Counter[Presence] | Counter[str]) -> str:
    return ", ".join(f"{states[state]:,} {state.value}" for state in _ORDER if states[state])


def _more_alarms(count: int) -> str:
    if count <= 0:
        return ""
    return f"Not listed: {wording.plural(count, 'older alarm')}. 'kattila-manager alarms' lists all."


def _names(agents: Sequence[Agent]) -> dict[str, str]:
    return {agent.agent_id: name_of(agent) for agent in agents}


def _moment(at: int, now: int) -> Moment:
    return Moment(wording.moment(at), wording.machine_moment(at), f"{wording.duration(now - at)} ago")
