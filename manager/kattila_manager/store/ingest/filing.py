"""Judges a batch of reports against the database, and writes those that are accepted, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard
from sqlalchemy import Connection, func, insert, select

from kattila_manager.records import Filed, VerifiedReport, refused
from kattila_manager.store.bodies import data_of
from kattila_manager.store.ingest import admission, agent_states, replay_windows
from kattila_manager.store.ingest.admission import AdmissionLimits
from kattila_manager.store.ingest.agent_states import AgentState
from kattila_manager.store.ingest.compression_groups import CompressedReport
from kattila_manager.store.ingest.identity import Ruling
from kattila_manager.store.schema import for_driver, reports
from kattila_protocol.errors import (
    IdentityConflict,
    IdentityUnproven,
    Refusal,
    Replay,
    SampleTaken,
    Superseded,
)
from kattila_protocol.foreign_text import shown
from kattila_protocol.freshness import Freshness, check_numbers
from kattila_protocol.report import Report, Spool
from kattila_protocol.verdict import ACCEPTED, DUPLICATE

_INSERT = for_driver(insert(reports))
_LAST_ID = select(func.max(reports.c.id))
# A sample takes seconds to arrive, even through relays. If it was signed later than this, its node kept it meanwhile.
PROMPT_MS = 60 * 1000
_OWN = ("", "127.0.0.1", "::1", "::ffff:127.0.0.1")


@dataclass(slots=True)
class Filing:
    """One transaction; create it with the write lock held."""

    connection: Connection
    limits: AdmissionLimits | None = None
    _states: dict[str, AgentState] = field(default_factory=dict)
    _changed: dict[int, AgentState] = field(default_factory=dict)
    _rows: list[tuple[Any, ...]] = field(default_factory=list)
    _next_id: int = 0

    def file(self, batch: Sequence[CompressedReport]) -> list[Filed]:
        """Judge and write all; return their outcomes. The caller commits."""
        self._states = agent_states.load(self.connection, [each.verified.report.agent_id for each in batch])
        self._next_id = int(self.connection.execute(_LAST_ID).scalar() or 0) + 1
        outcomes = [self._file_one(compressed) for compressed in batch]
        self._write_rows()
        agent_states.save(self.connection, self._changed.values())
        return outcomes

    def _file_one(self, compressed: CompressedReport) -> Filed:
        verified = compressed.verified
        known = self._states.get(verified.report.agent_id)
        highest = (known.highest_tick, known.highest_sample) if known else (0, 0)
        try:
            # Impossible numbers change nothing: they bind no id, and prove no machine.
            idle_ms = verified.received_at - known.last_seen_at if known else 0
            check_numbers(verified.report.tick, verified.report.sample, highest, idle_ms, verified.received_at)
            state = known or self._bind(verified)
            # A reset forgets the highest sample, but keeps the reports.
            may_be_known = verified.report.sample <= state.highest_sample or state.reset_at > 0
            is_fresh = self._is_fresh(state, verified)
            is_new = is_fresh and not (may_be_known and self._has_sample(state, verified))
        except Refusal as refusal:
            return refused(refusal, *highest)
        if not is_new:
            return Filed(DUPLICATE, *highest)
        report_id = self._append(state, compressed)
        return Filed(ACCEPTED, state.highest_tick, state.highest_sample, report_id)

    def _is_fresh(self, state: AgentState, verified: VerifiedReport) -> bool:
        """Return False for a duplicate message. Raises Superseded, Replay, IdentityConflict, IdentityUnproven."""
        report = verified.report
        if report.timestamp < state.reset_at:
            raise Superseded("the message was signed before the last reset; sign it again")
        judged = replay_windows.judge(state.window, state.highest_tick, report.tick, report.nonce)
        if judged is Freshness.DUPLICATE:
            return False
        # Before the replay check: a clone uses the same numbers as the original, and must still learn that it is one.
        if not agent_states.is_holder(state, report):
            self._check_machine(state, verified)
        if judged is Freshness.REPLAY:
            raise Replay(f"tick {report.tick} or its nonce was used before; the highest tick is {state.highest_tick}")
        return True

    def _check_machine(self, state: AgentState, verified: VerifiedReport) -> None:
        report, is_newest = verified.report, verified.report.tick > state.highest_tick
        if not is_newest and not agent_states.is_settled(self.connection, state, report.boot_id):
            # From before a reboot, or from a clone; a clone's ticks rise above the highest, where it is judged.
            raise Replay(f"tick {report.tick} of another boot comes after tick {state.highest_tick}")
        self._changed[state.ref] = state
        claim = agent_states.claim_of(report)
        ruling = agent_states.rule(self.connection, state, claim, verified.received_at, is_newest=is_newest)
        who = f"{shown(hostname_of(report))} reports as {state.agent_id}, which {shown(state.hostname)} holds"
        if ruling is Ruling.CONFLICT:
            raise IdentityConflict(f"{who}; it must register again")
        if ruling is Ruling.UNPROVEN:
            raise IdentityUnproven(f"{who}; whether they are two machines shows within two minutes")

    def _has_sample(self, state: AgentState, verified: VerifiedReport) -> bool:
        """Return whether this measurement is stored. Raises SampleTaken if another one has its number."""
        sample = verified.report.sample
        self._write_rows()
        mine = (reports.c.agent_ref == state.ref) & (reports.c.sample == sample)
        report_id = self.connection.execute(select(reports.c.id).where(mine)).scalar()
        if report_id is not None and self._is_another(report_id, verified):
            raise SampleTaken(
                f"another measurement was accepted as sample {sample}; the highest is {state.highest_sample}"
            )
        return report_id is not None

    def _is_another(self, report_id: int, verified: VerifiedReport) -> bool:
        mine = _telemetry(verified.data)
        try:
            stored = _telemetry(data_of(self.connection, report_id))
        except (LookupError, zstandard.ZstdError):
            # Pruned in part, or damaged.
            return False
        # Only a sender that is not an agent has it at another place, and loses nothing.
        return mine not in (b"", stored)

    def _append(self, state: AgentState, compressed: CompressedReport) -> int:
        verified, report_id = compressed.verified, self._next_id
        report = verified.report
        # Both times are from the sender, so their difference holds even if its clock is wrong.
        age = report.timestamp - report.sampled_at
        is_late = report.sample <= state.highest_sample or age > PROMPT_MS
        self._next_id += 1
        row = (
            report_id,
            state.ref,
            report.sample,
            report.tick,
            verified.received_at,
            self._late_sampled_at(state, verified, age) if is_late else None,
            bytes.fromhex(verified.key.fingerprint),
            verified.mac,
            ",".join(verified.relay_path) or None,
            compressed.key_id or report_id,
            compressed.base_id,
            compressed.body,
        )
        self._rows.append(row)
        self._changed[state.ref] = state
        _advance(state, verified, report_id)
        return report_id

    def _late_sampled_at(self, state: AgentState, verified: VerifiedReport, age: int) -> int:
        """Return when a late sample was measured, by our clock (ms UTC), between its neighbours.

        Samples are numbered in the order of their measurement, which a wrong clock does not change.
        """
        self._write_rows()
        mine, number = reports.c.agent_ref == state.ref, verified.report.sample
        moments = select(func.coalesce(reports.c.sampled_at, reports.c.received_at)).where(mine).limit(1)
        before = moments.where(reports.c.sample < number).order_by(reports.c.sample.desc())
        after = moments.where(reports.c.sample > number).order_by(reports.c.sample)
        earliest = self.connection.execute(before).scalar()
        latest = self.connection.execute(after).scalar()
        at = max(0, verified.received_at - max(0, age), earliest or 0)
        return at if latest is None else min(at, latest)

    def _bind(self, verified: VerifiedReport) -> AgentState:
        report = verified.report
        admission.admit(self.connection, self.limits, verified.source, verified.received_at)
        claim, hostname = agent_states.claim_of(report), hostname_of(report)
        state = agent_states.create(self.connection, report.agent_id, hostname, claim, verified.received_at, None)
        self._states[report.agent_id] = state
        return state

    def _write_rows(self) -> None:
        if self._rows:
            self.connection.exec_driver_sql(_INSERT, self._rows)
            self._rows = []


def _telemetry(data: bytes) -> bytes:
    """Return DATA from its telemetry on, which agents write last and never change; empty if it has another place.

    Comparing the bytes holds the write lock for a fraction of the time that decoding takes.
    """
    _, found, telemetry = data.partition(b',"telemetry":')
    return telemetry if found else b""


def hostname_of(report: Report) -> str:
    """Return the host name that a node reports, or "" if its system data could not be read."""
    return report.telemetry.system.hostname if report.telemetry.system else ""


def _advance(state: AgentState, verified: VerifiedReport, report_id: int) -> None:
    """Update the state from a message if its tick is the highest, and from its sample if that is the newest."""
    report, received_at = verified.report, verified.received_at
    previous_at = None if state.latest_report_id is None else state.last_seen_at
    state.window = replay_windows.add(state.window, state.highest_tick, report.tick, report.nonce)
    if report.tick > state.highest_tick:
        state.highest_tick = report.tick
        state.last_seen_at = received_at
        state.fingerprint = verified.key.fingerprint
        state.clock_offset = report.timestamp - received_at
        if not verified.relay_path:
            # From a proxy on this machine, every report comes from the same address.
            state.source_address = None if verified.source in _OWN else verified.source
    if report.sample > state.highest_sample:
        state.highest_sample = report.sample
        state.latest_report_id = report_id
        state.relay_path = ",".join(verified.relay_path)
        if report.telemetry.system is not None:
            state.hostname = report.telemetry.system.hostname
            state.agent_version = report.telemetry.system.agent_version
        state.interval_seconds = report.telemetry.interval_seconds
        _advance_spool(state, report.telemetry.spool, received_at, previous_at)


def _advance_spool(state: AgentState, spool: Spool | None, now: int, previous_at: int | None) -> None:
    state.waiting = None if spool is None else max(0, spool.waiting)
    dropped = state.dropped if spool is None else max(0, spool.dropped)
    # A lower count starts from zero, in another state folder.
    if dropped and dropped != state.dropped:
        state.dropped_at, state.dropped_after = now, previous_at
    state.dropped = dropped
