"""The rules for alarms: which ones open, continue and close.

An alarm has a subject: a kind, and an agent or None. Some alarms follow a counter, of refusals or of samples that an
agent dropped. They open when it grows, count further growth, and close after 15 quiet minutes. The others last as long
as a state does. While the state is unknown, an alarm stays as it is.

Agents report their counters themselves, so any 64-bit number may occur. If the evidence on one subject cannot be
judged, its alarm stays as it is, and the others are judged nevertheless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from kattila_keys.refresh import REFRESH_MS
from kattila_manager.records import Agent, Alarm, Ambiguity, KeyName, RefusalCount, Snapshot, Subject
from kattila_manager.topology.newcomers import crowd
from kattila_manager.topology.presence import Presence, Watch, presence
from kattila_manager.wording import moment, path_text, plural, shown
from kattila_protocol.canonical import MAX_INTEGER
from kattila_protocol.errors import (
    BadSignature,
    ClockSkew,
    IdentityConflict,
    IdentityUnproven,
    NumbersTooHigh,
    Replay,
    SampleTaken,
    TooManyAgents,
)

QUIET_MS = 15 * 60 * 1000
# Every agent queries DNS in this time after a change of the key, even if one query fails.
GRACE_MS = 2 * REFRESH_MS
_DETAIL_LENGTH = 500


class AlarmKind(StrEnum):
    """The kinds of alarms."""

    BAD_SIGNATURE = "bad_signature"
    REPLAY = "replay"
    CLOCK_SKEW = "clock_skew"
    IDENTITY_CONFLICT = "identity_conflict"
    IMPOSSIBLE_NUMBERS = "impossible_numbers"
    PREVIOUS_KEY = "previous_key"
    AGENT_SILENT = "agent_silent"
    SAMPLES_DROPPED = "samples_dropped"
    RECORD_AMBIGUOUS = "record_ambiguous"
    MANY_NEW_AGENTS = "many_new_agents"


# What to show as the agent of an alarm that concerns neither an agent nor an unknown sender.
OWNERS: Mapping[str, str] = {AlarmKind.RECORD_AMBIGUOUS: "TXT record", AlarmKind.MANY_NEW_AGENTS: "new agents"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Evidence for an alarm: its start, its newest time, and a description.

    `counter` is the value of the counter that the alarm follows, `counted` the value at the subject's newest alarm;
    None and 0 for a state.
    """

    subject: Subject
    since: int
    last_at: int
    detail: str
    counter: int | None = None
    counted: int = 0

    @property
    def growth(self) -> int:
        """How often it happened since the newest alarm; 1 for a state. A counter that fell was restarted from 0."""
        if self.counter is None:
            return 1
        return self.counter - self.counted if self.counter >= self.counted else self.counter


@dataclass(frozen=True, slots=True)
class Findings:
    """All evidence at one time, the subjects whose state is unknown, and errors in judging some of these."""

    found: tuple[Finding, ...]
    unknown: frozenset[Subject]
    failed: Mapping[Subject, Exception] = field(default_factory=dict)


# A subject, and what makes the finding on it: None if there is no evidence.
_Evidence = tuple[Subject, Callable[[], Finding | None]]


@dataclass(frozen=True, slots=True)
class Opened:
    """A new alarm; its members are those of `Alarm`."""

    subject: Subject
    opened_at: int
    last_at: int
    count: int
    counter: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Renewed:
    """An open alarm with newer evidence."""

    alarm: Alarm
    last_at: int
    count: int
    counter: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Closed:
    """An open alarm that ends."""

    alarm: Alarm
    closed_at: int


@dataclass(frozen=True, slots=True)
class Amended:
    """A closed alarm with a new description."""

    alarm: Alarm
    detail: str


Event = Opened | Renewed | Closed | Amended


def compare(opened: Iterable[Alarm], findings: Findings, now: int) -> tuple[Event, ...]:
    """Return the changes to write into the alarm log; empty if there are none."""
    alarms = {(alarm.kind, alarm.agent_id): alarm for alarm in opened}
    found = {finding.subject for finding in findings.found}
    closed = [Closed(alarm, now) for subject, alarm in alarms.items() if subject not in found | findings.unknown]
    events = [_event(alarms.get(finding.subject), finding) for finding in findings.found]
    return (*closed, *(event for event in events if event is not None))


def amend(closed: Iterable[Alarm], late: Mapping[int, int]) -> tuple[Amended, ...]:
    """Return the closed alarms of silence whose agents prove to have been alive; `late` is as in a snapshot."""
    details = [(alarm, _cut_off(alarm, late[alarm.alarm_id])) for alarm in closed if alarm.alarm_id in late]
    return tuple(Amended(alarm, detail) for alarm, detail in details if detail != alarm.detail)


def subject_of(event: Event) -> Subject:
    """Return the subject of the alarm that an event changes."""
    return event.subject if isinstance(event, Opened) else (event.alarm.kind, event.alarm.agent_id)


def find_evidence(
    snapshot: Snapshot, keys: Sequence[KeyName] | None, watch: Watch, ambiguity: Ambiguity | None = None
) -> Findings:
    """Return the evidence for all alarms; `keys` are those of the ring, None if it cannot be read.

    New agents that are too many to be listed have one alarm together.
    """
    crowded = crowd(snapshot.agents)
    listed = [agent for agent in snapshot.agents if agent.agent_id not in crowded]
    behind = [agent for agent in listed if keys and is_on_other_key(agent, keys)]
    is_moving = bool(keys) and abs(watch.now - _current_since(keys or ())) < GRACE_MS
    watched = [(agent, presence(agent, watch)) for agent in listed]
    names = {agent.agent_id: name_of(agent) for agent in snapshot.agents}
    silent = [agent for agent, state in watched if state is Presence.SILENT]
    evidence: tuple[_Evidence, ...] = (
        *(each for each in _counted(snapshot, names, watch.now) if each[0][1] not in crowded),
        (_NEW_AGENTS, partial(_many_new_agents, snapshot, crowded, watch)),
        *((_previous_key_of(agent), partial(_previous_key, agent, keys)) for agent in behind if keys and not is_moving),
        *([(_RECORD, partial(_record_ambiguous, ambiguity, keys or (), watch.now))] if ambiguity else []),
        *((_silence_of(agent), partial(_silent, agent, names)) for agent in silent),
    )
    found, failed = _judged(evidence)
    unknown = {_silence_of(agent) for agent, state in watched if state is Presence.UNHEARD} | failed.keys()
    # While the fleet moves to a new key, an agent that has not moved opens no alarm, but an older alarm stays open.
    undecided = listed if not keys else behind if is_moving else ()
    unknown |= {_previous_key_of(agent) for agent in undecided}
    if keys is None:
        unknown.add(_RECORD)
    if not watch.is_on:
        unknown.add(_NEW_AGENTS)
    return Findings(found, frozenset(unknown), failed)


def is_on_other_key(agent: Agent, keys: Sequence[KeyName]) -> bool:
    """Return whether an agent signed its newest message with a key other than the current one."""
    return bool(agent.fingerprint) and agent.fingerprint != keys[0].fingerprint


def name_of(agent: Agent) -> str:
    """Return an agent's display name: its host name, or its id if it has none; safe to show."""
    return shown(agent.hostname) or agent.agent_id


def _judged(evidence: Iterable[_Evidence]) -> tuple[tuple[Finding, ...], dict[Subject, Exception]]:
    """Return the findings, and the errors of subjects that cannot be judged; these hide no other finding."""
    found: list[Finding] = []
    failed: dict[Subject, Exception] = {}
    for subject, find in evidence:
        try:
            finding = find()
        except Exception as error:
            failed[subject] = error
        else:
            found += [finding] if finding is not None else []
    return tuple(found), failed


def _event(alarm: Alarm | None, finding: Finding) -> Event | None:
    if alarm is None:
        count = min(max(1, finding.growth), MAX_INTEGER)
        return Opened(finding.subject, finding.since, finding.last_at, count, finding.counter, finding.detail)
    if finding.counter is None:
        is_news = finding.detail != alarm.detail
        return Renewed(alarm, finding.last_at, alarm.count, None, finding.detail) if is_news else None
    if finding.counter == alarm.counter:
        return None
    count = min(alarm.count + finding.growth, MAX_INTEGER)
    return Renewed(alarm, finding.last_at, count, finding.counter, finding.detail)


# --- Counters

# The counters that an alarm follows, and the likely cause if they grow.
_COUNTED: tuple[tuple[AlarmKind, tuple[str, ...], str], ...] = (
    (AlarmKind.BAD_SIGNATURE, (BadSignature.kind,), "the sender has a wrong or outdated PSK, or is a stranger"),
    (AlarmKind.REPLAY, (Replay.kind,), "an old message was sent again, or the machine was restored from a snapshot"),
    (AlarmKind.CLOCK_SKEW, (ClockSkew.kind,), "its reports are refused until its clock is right: check NTP"),
    (AlarmKind.IDENTITY_CONFLICT, (IdentityConflict.kind, IdentityUnproven.kind), ""),
    (
        AlarmKind.IMPOSSIBLE_NUMBERS,
        (NumbersTooHigh.kind, SampleTaken.kind),
        "a PSK holder reports under its id, or its state folder was restored or damaged",
    ),
    (AlarmKind.SAMPLES_DROPPED, (AlarmKind.SAMPLES_DROPPED,), "they were too old or too many, or its disk was full"),
)


def _counted(snapshot: Snapshot, names: dict[str, str], now: int) -> Iterator[_Evidence]:
    counts = [*snapshot.refusals, *_reported_by(snapshot.agents, names)]
    for kind, counters, meaning in _COUNTED:
        evidence: dict[str | None, list[RefusalCount]] = {}
        for count in counts:
            if count.kind in counters:
                evidence.setdefault(count.agent_id, []).append(count)
        for agent_id, mine in sorted(evidence.items(), key=str):
            subject = (str(kind), agent_id)
            if abs(now - max(refusal.last_at for refusal in mine)) <= QUIET_MS:
                yield subject, partial(_count, subject, mine, snapshot.counters.get(subject, 0), meaning)


def _count(subject: Subject, refusals: Sequence[RefusalCount], counted: int, meaning: str) -> Finding:
    newest = max(refusals, key=lambda refusal: refusal.last_at)
    first_at = min(refusal.first_at for refusal in refusals)
    detail = "; ".join(part for part in (newest.detail, meaning) if part)
    return Finding(
        subject=subject,
        since=max(first_at, newest.last_at - QUIET_MS) if counted == 0 else newest.last_at,
        last_at=newest.last_at,
        detail=shown(detail, _DETAIL_LENGTH),
        counter=min(sum(refusal.count for refusal in refusals), MAX_INTEGER),
        counted=counted,
    )


def _reported_by(agents: Iterable[Agent], names: dict[str, str]) -> Iterator[RefusalCount]:
    """Yield conflicts and drops that agents report themselves, as refusal counts."""
    for agent in agents:
        if agent.instead_of:
            yield _issued(agent, names)
        if agent.dropped and agent.dropped_at is not None:
            yield _dropped(agent.agent_id, agent.dropped, agent.dropped_at, agent.dropped_after)


def _dropped(agent_id: str, count: int, at: int, after: int | None) -> RefusalCount:
    since = "before its first report" if after is None else f"after {moment(after)}"
    detail = f"{plural(count, 'sample')} dropped since its state folder was created, the newest {since}"
    return RefusalCount(AlarmKind.SAMPLES_DROPPED, agent_id, count, at, at, detail)


def _issued(agent: Agent, names: dict[str, str]) -> RefusalCount:
    wanted = agent.instead_of or ""
    holder = names.get(wanted, "another machine")
    detail = f"{name_of(agent)} used the id {wanted}, which {holder} holds; it now has {agent.agent_id}"
    at = agent.first_seen_at
    return RefusalCount(AlarmKind.IDENTITY_CONFLICT, wanted, 1, at, at, detail)


# --- States

_RECORD: Subject = (str(AlarmKind.RECORD_AMBIGUOUS), None)
_NEW_AGENTS: Subject = (str(AlarmKind.MANY_NEW_AGENTS), None)


def _previous_key_of(agent: Agent) -> Subject:
    return str(AlarmKind.PREVIOUS_KEY), agent.agent_id


def _silence_of(agent: Agent) -> Subject:
    return str(AlarmKind.AGENT_SILENT), agent.agent_id


def _previous_key(agent: Agent, keys: Sequence[KeyName]) -> Finding:
    known = any(agent.fingerprint == key.fingerprint for key in keys)
    detail = (
        f"signs with {agent.fingerprint}{'' if known else ', which is no longer in the ring'}; the current key "
        f"{keys[0].fingerprint} was first seen {moment(keys[0].first_seen_at)}, and agents query DNS every hour"
    )
    at = max(_current_since(keys), agent.first_seen_at)
    return Finding(_previous_key_of(agent), at, agent.last_seen_at, detail)


def _current_since(keys: Sequence[KeyName]) -> int:
    since = keys[0].current_since
    return keys[0].first_seen_at if since is None else since


def _record_ambiguous(ambiguity: Ambiguity, keys: Sequence[KeyName], now: int) -> Finding:
    last = f"; the last good key {keys[0].fingerprint} stays in use" if keys else ""
    detail = (
        f"{len(ambiguity.fingerprints)} TXT records could be the PSK (fingerprints "
        f"{', '.join(ambiguity.fingerprints)}): remove all but one{last}"
    )
    return Finding(_RECORD, ambiguity.since, now, shown(detail, _DETAIL_LENGTH))


def _many_new_agents(snapshot: Snapshot, crowded: frozenset[str], watch: Watch) -> Finding | None:
    """Return the finding if new agents had to wait, or if many of them stopped reporting at once."""
    new = [agent for agent in snapshot.agents if agent.agent_id in crowded]
    silent = [agent for agent in new if presence(agent, watch) is Presence.SILENT]
    waited = [
        count
        for count in snapshot.refusals
        if count.kind == TooManyAgents.kind and abs(watch.now - count.last_at) <= QUIET_MS
    ]
    if not silent and not waited:
        return None
    parts = (
        *([f"{plural(len(new), 'new agent')} not listed, {len(silent):,} silent"] if new else []),
        *(f"others had to wait: {count.detail}" for count in waited),
        "unless nodes are being rolled out, somebody with the PSK invents agents; forget --newcomers hides silent ones",
    )
    since = [*(agent.first_seen_at for agent in silent), *(count.last_at for count in waited)]
    last_at = max([*(agent.last_seen_at for agent in silent), *(count.last_at for count in waited)])
    return Finding(_NEW_AGENTS, min(since), last_at, shown("; ".join(parts), _DETAIL_LENGTH))


def _cut_off(alarm: Alarm, late: int) -> str:
    until = "" if alarm.closed_at is None else f" until {moment(alarm.closed_at)}"
    arrived = f"{plural(late, 'sample')} arrived late"
    return f"no report since {moment(alarm.opened_at)}{until}; it was cut off but alive: {arrived}"


def _silent(agent: Agent, names: dict[str, str]) -> Finding:
    last = f"the last one came {path_text([names.get(relay, relay) for relay in agent.relay_path])}"
    has_reported = agent.latest_report_id is not None
    detail = (
        f"no report since {moment(agent.last_seen_at)}; {last}" if has_reported else "registered, but never reported"
    )
    at = agent.last_seen_at
    return Finding(_silence_of(agent), at, at, shown(detail, _DETAIL_LENGTH))
