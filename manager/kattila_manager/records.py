"""Frozen values that pass between the store and the rest of the manager."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kattila_protocol.errors import Refusal
from kattila_protocol.report import Report
from kattila_protocol.signing import Key


@dataclass(frozen=True, slots=True)
class VerifiedReport:
    """An authentic report that is not filed yet: its parsed form, and the bytes that were signed.

    `mac` is the report's MAC (32 bytes), `key` the key that made it, `received_at` is ms UTC, `source` is the address
    that it came from.
    """

    report: Report
    data: bytes
    mac: bytes
    key: Key
    relay_path: tuple[str, ...]
    received_at: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Filed:
    """The outcome of a report: "accepted", "duplicate" or the kind of a refusal; and its agent's highest numbers.

    `report_id` is its row; None for a duplicate or a refusal.
    """

    outcome: str
    highest_tick: int
    highest_sample: int
    report_id: int | None = None
    refusal: Refusal | None = None


def refused(refusal: Refusal, highest_tick: int = 0, highest_sample: int = 0) -> Filed:
    """Return the outcome of a refused report."""
    return Filed(refusal.kind, highest_tick, highest_sample, refusal=refusal)


@dataclass(frozen=True, slots=True)
class Record:
    """A report in the audit log; `data` is byte for byte what was signed, `mac` its MAC in hex.

    `sampled_at` is when a late sample was measured, by the manager's clock (ms UTC); None if it arrived in order.
    """

    agent_id: str
    sample: int
    tick: int
    received_at: int
    sampled_at: int | None
    fingerprint: str
    relay_path: tuple[str, ...]
    mac: str
    data: bytes


class Arrival(NamedTuple):
    """How one report of an agent arrived: its row, its sample number, when, and through which relays.

    `sampled_at` is as in a Record. This is a tuple as SQLite returns it, because a month of one agent has 86,400;
    `relay_path` separates ids by commas, and is None for direct.
    """

    report_id: int
    sample: int
    received_at: int
    sampled_at: int | None
    relay_path: str | None

    @property
    def measured_at(self) -> int:
        """The best estimate of when it was measured (ms UTC, manager's clock)."""
        return self.received_at if self.sampled_at is None else self.sampled_at


@dataclass(frozen=True, slots=True)
class Agent:
    """One row of the fleet registry. Times are ms UTC; `clock_offset` is the agent's clock minus ours in ms.

    `waiting` and `dropped` count samples on its disk and samples lost (None: not reported). `dropped_at` is when a
    report last showed more dropped samples, `dropped_after` when the message before that one arrived (None: never).
    `interval_seconds` is its report interval, None if it does not report it. `source_address` is where its newest
    direct report came from, None if it is not known.
    """

    ref: int
    agent_id: str
    hostname: str
    agent_version: str
    first_seen_at: int
    last_seen_at: int
    highest_sample: int
    fingerprint: str
    clock_offset: int
    relay_path: tuple[str, ...]
    latest_report_id: int | None
    instead_of: str | None
    waiting: int | None
    dropped: int | None
    dropped_at: int | None
    dropped_after: int | None
    interval_seconds: int | None
    source_address: str | None


@dataclass(frozen=True, slots=True)
class RefusalCount:
    """How often messages of one kind were refused, for an authenticated agent or (agent_id None) unknown senders."""

    kind: str
    agent_id: str | None
    count: int
    first_at: int
    last_at: int
    detail: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """One row of the alarm log; `closed_at` is None while it is open, `agent_id` None if it concerns no known agent.

    `count` is how often it happened since it opened. `counter` is the value of the counter that it follows (refusals,
    or dropped samples) at the newest evidence; None for an alarm that follows a state.
    """

    alarm_id: int
    kind: str
    agent_id: str | None
    opened_at: int
    closed_at: int | None
    last_at: int
    count: int
    detail: str
    counter: int | None


@dataclass(frozen=True, slots=True)
class Edge:
    """One connection between two agents, named by their `ref`, the smaller first; it has no direction.

    `state` is a `relay_edges.EdgeState`, `evidence` JSON that names reports which show the edge.
    """

    edge_id: int
    kind: str
    a_ref: int
    b_ref: int
    state: str
    evidence: str
    first_seen_at: int
    last_seen_at: int

    @property
    def pair(self) -> tuple[int, int]:
        """Both agents."""
        return self.a_ref, self.b_ref


# What an alarm or a counter is about: its kind, and the agent (None: no known agent).
Subject = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class KeyName:
    """A key of the ring without its value: its fingerprint, and when it was first seen and last used (ms UTC).

    `current_since` is when the current key became the current one; None for other keys, and if nobody knows.
    """

    fingerprint: str
    first_seen_at: int
    last_used_at: int | None
    current_since: int | None = None


@dataclass(frozen=True, slots=True)
class Ambiguity:
    """Several TXT records could be the PSK: their fingerprints, and since when (ms UTC)."""

    fingerprints: tuple[str, ...]
    since: int


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What the publisher uses of an agent's newest report, and keeps until the next one: never a long list.

    `labels` are the node's. `interfaces` is the number of its interfaces' rows, `interfaces_digest` a digest of their
    content, which is comparable within a process. Whatever else alarms, topology or pages need becomes a member here.
    """

    labels: Mapping[str, str]
    interfaces: int
    interfaces_digest: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that one rendering reads, in one consistent state.

    `reports` sum up the newest samples by their id in the database; `damaged` lists the ids of unreadable ones.
    `listening` is (since, until) of the server's workers, None if they never ran. `counters` holds the counter values
    at the newest alarm of each subject. `late` counts, by the id of a closed alarm, the late samples that were
    measured while it was open.
    """

    agents: tuple[Agent, ...]
    reports: Mapping[int, ReportSummary]
    damaged: tuple[int, ...]
    refusals: tuple[RefusalCount, ...]
    listening: tuple[int, int] | None
    open_alarms: tuple[Alarm, ...]
    closed_alarms: tuple[Alarm, ...]
    counters: Mapping[Subject, int]
    edges: tuple[Edge, ...]
    late: Mapping[int, int]

    def report_of(self, agent: Agent) -> ReportSummary | None:
        """Return the summary of an agent's newest sample; None if there is none, or if it cannot be read."""
        return None if agent.latest_report_id is None else self.reports.get(agent.latest_report_id)
