"""Frozen values between the store and everything else.

May live here: what crosses the store's edge, in either direction. Not here: how it is kept (store) or judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kattila_protocol.errors import Refusal
from kattila_protocol.report import Report


@dataclass(frozen=True, slots=True)
class Incoming:
    """An authentic report that is not filed yet: its meaning, and the bytes that were signed.

    `mac` is the report's MAC (32 bytes), `fingerprint` names the key that made it, `received_at` is ms UTC.
    """

    report: Report
    data: bytes
    mac: bytes
    fingerprint: str
    relay_path: tuple[str, ...]
    received_at: int


@dataclass(frozen=True, slots=True)
class Filed:
    """What became of a report: "accepted", "duplicate", or refused; and the highest numbers known of its agent.

    `report_id` is its row, None if it was there already or is refused.
    """

    outcome: str
    highest_tick: int
    highest_sample: int
    report_id: int | None = None
    refusal: Refusal | None = None


def refused(refusal: Refusal, highest_tick: int = 0, highest_sample: int = 0) -> Filed:
    """Return what became of a report that was refused."""
    return Filed(refusal.kind, highest_tick, highest_sample, refusal=refusal)


@dataclass(frozen=True, slots=True)
class Record:
    """A report as kept in the audit log; `data` is byte for byte what was signed, `mac` its MAC in hex.

    `sampled_at` is when it was measured, by our clock (ms UTC), if it came late; None: it came in its order.
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
    """How one report of an agent came: its row in the database, its sample, when and by which relays it arrived.

    `sampled_at` is as in a Record. It is a tuple as SQLite gives it, since a month of an agent is 86,400 of them;
    `relay_path` has commas between the ids, and is None for direct.
    """

    report_id: int
    sample: int
    received_at: int
    sampled_at: int | None
    relay_path: str | None

    @property
    def measured_at(self) -> int:
        """When it was measured (ms UTC, by our clock), as exactly as we know."""
        return self.received_at if self.sampled_at is None else self.sampled_at


@dataclass(frozen=True, slots=True)
class Agent:
    """One row of the fleet registry. Moments are ms UTC, `clock_offset` is the agent's clock less ours in ms.

    `waiting` samples lie on its disk, `dropped` ones were given up (None: it does not tell); `dropped_at` is when it
    told of more of these, and `dropped_after` when it was heard of before that (None: never).
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


@dataclass(frozen=True, slots=True)
class RefusalCount:
    """How often messages of one kind were refused, for an authenticated agent or (agent_id None) for nobody known."""

    kind: str
    agent_id: str | None
    count: int
    first_at: int
    last_at: int
    detail: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """One entry of the event log; `closed_at` is None while it is open, `agent_id` None when it concerns no agent.

    `count` says how often since it opened. `counter` is what it follows, a count of refusals or of samples given up,
    as it stood at the newest evidence; None for an alarm that lasts as long as a state does.
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
    """One link between two agents, named by their `ref`, the smaller first; it has no direction.

    `state` is a topology.State, `evidence` JSON that tells which reports show it.
    """

    edge_id: int
    kind: str
    a_ref: int
    b_ref: int
    state: str
    evidence: str
    first_seen_at: int
    last_seen_at: int


# What an alarm or a counter is about: its kind, and the agent (None: nobody in particular).
Subject = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class KeyName:
    """A key of the ring as it may be spoken of: its fingerprint, and when it was first seen and last used (ms UTC)."""

    fingerprint: str
    first_seen_at: int
    last_used_at: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one rendering reads, in one consistent state.

    `reports` are the newest measurements by their id in the database; `damaged` names those that cannot be read.
    `listening` is (since, until) of the server's workers, None for never. `counters` are where the newest alarm of each
    subject left its counter. `late` tells of closed alarms, by their id, how many samples that were measured while they
    were open came late.
    """

    agents: tuple[Agent, ...]
    reports: Mapping[int, Report]
    damaged: tuple[int, ...]
    refusals: tuple[RefusalCount, ...]
    listening: tuple[int, int] | None
    open_alarms: tuple[Alarm, ...]
    closed_alarms: tuple[Alarm, ...]
    counters: Mapping[Subject, int]
    edges: tuple[Edge, ...]
    late: Mapping[int, int]

    def report_of(self, agent: Agent) -> Report | None:
        """Return an agent's newest measurement; None if there is none, or none that can be read."""
        return None if agent.latest_report_id is None else self.reports.get(agent.latest_report_id)
