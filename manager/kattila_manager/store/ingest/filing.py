"""One batch of authentic reports into the database, in one transaction; a verdict for each.

May live here: what is judged against earlier reports, in this order: the last reset, the very same message, the machine
behind the id, tick and nonce, the sample. A refused report changes nothing but what proves two machines under one id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select

from kattila_manager.records import Filed, Incoming, refused
from kattila_manager.store.ingest import agent_states, replay_windows
from kattila_manager.store.ingest.agent_states import AgentState
from kattila_manager.store.ingest.compression_groups import Prepared
from kattila_manager.store.ingest.identity import Ruling
from kattila_manager.store.schema import for_driver, reports
from kattila_protocol.errors import IdentityConflict, IdentityUnproven, Refusal, Replay, Superseded
from kattila_protocol.freshness import Freshness
from kattila_protocol.report import Report, Spool
from kattila_protocol.verdict import ACCEPTED, DUPLICATE

_INSERT = for_driver(insert(reports))
_LAST_ID = select(func.max(reports.c.id))
# A sample is on its way, through relays too, for seconds; one signed later than this was kept in between.
PROMPT_MS = 60 * 1000


class Filing:
    """One transaction; make it with the write lock held."""

    def __init__(self, connection: Connection, agent_ids: Sequence[str]) -> None:
        """Read what is known of the agents."""
        self._connection = connection
        self._states = agent_states.load(connection, agent_ids)
        self._next_id = int(connection.execute(_LAST_ID).scalar() or 0) + 1
        self._rows: list[tuple[Any, ...]] = []
        self._changed: dict[int, AgentState] = {}

    def file(self, batch: Sequence[Prepared]) -> list[Filed]:
        """Judge and write all; the caller commits."""
        outcomes = [self._file_one(prepared) for prepared in batch]
        self._write_rows()
        agent_states.save(self._connection, self._changed.values())
        return outcomes

    def _file_one(self, prepared: Prepared) -> Filed:
        incoming = prepared.incoming
        state = self._states.get(incoming.report.agent_id) or self._bind(incoming)
        try:
            fresh = self._is_fresh(state, incoming)
        except Refusal as refusal:
            return refused(refusal, state.highest_tick, state.highest_sample)
        report_id = self._append(state, prepared) if fresh and not self._has_sample(state, incoming.report) else None
        outcome = DUPLICATE if report_id is None else ACCEPTED
        return Filed(outcome, state.highest_tick, state.highest_sample, report_id)

    def _is_fresh(self, state: AgentState, incoming: Incoming) -> bool:
        report = incoming.report
        if report.timestamp < state.reset_at:
            raise Superseded("the message was signed before the last reset; sign it anew")
        judged = replay_windows.judge(state.window, state.highest_tick, report.tick, report.nonce)
        if judged is Freshness.DUPLICATE:
            return False
        # Before the replay: a clone takes the numbers that the original takes, and must hear what it is all the same.
        if report.boot_id != state.boot_id or state.challenger_boot_id:
            self._check_machine(state, incoming)
        if judged is Freshness.REPLAY:
            raise Replay(f"tick {report.tick} or its nonce was used before; the highest tick is {state.highest_tick}")
        return True

    def _check_machine(self, state: AgentState, incoming: Incoming) -> None:
        report, is_newest = incoming.report, incoming.report.tick > state.highest_tick
        if not is_newest and not agent_states.is_known(self._connection, state, report.boot_id):
            # From before a reboot, or of a clone; the clone goes on above and is heard then.
            raise Replay(f"tick {report.tick} of another boot comes after tick {state.highest_tick}")
        self._changed[state.ref] = state
        claim = agent_states.claim_of(report)
        ruling = agent_states.rule(self._connection, state, claim, incoming.received_at, is_newest=is_newest)
        who = f"{hostname_of(incoming.report)} reports as {state.agent_id}, which {state.hostname} holds"
        if ruling is Ruling.CONFLICT:
            raise IdentityConflict(f"{who}; it must register anew")
        if ruling is Ruling.UNPROVEN:
            raise IdentityUnproven(f"{who}; whether they are two machines shows within two minutes")

    def _has_sample(self, state: AgentState, report: Report) -> bool:
        if report.sample > state.highest_sample:
            return False
        self._write_rows()
        mine = (reports.c.agent_ref == state.ref) & (reports.c.sample == report.sample)
        return self._connection.execute(select(reports.c.id).where(mine)).first() is not None

    def _sampled_at(self, state: AgentState, incoming: Incoming) -> int | None:
        """Return when a sample that comes late was measured; None if it comes in its order.

        Samples are numbered in the order of their measurement, which no wrong clock changes: so each is dated between
        its neighbours.
        """
        at = sampled_at(state, incoming)
        if at is None:
            return None
        self._write_rows()
        mine, number = reports.c.agent_ref == state.ref, incoming.report.sample
        moments = select(func.coalesce(reports.c.sampled_at, reports.c.received_at)).where(mine).limit(1)
        before = moments.where(reports.c.sample < number).order_by(reports.c.sample.desc())
        after = moments.where(reports.c.sample > number).order_by(reports.c.sample)
        least = self._connection.execute(before).scalar()
        most = self._connection.execute(after).scalar()
        at = at if least is None else max(at, least)
        return at if most is None else min(at, most)

    def _append(self, state: AgentState, prepared: Prepared) -> int:
        incoming, report_id = prepared.incoming, self._next_id
        self._next_id += 1
        self._rows.append(
            (
                report_id,
                state.ref,
                incoming.report.sample,
                incoming.report.tick,
                incoming.received_at,
                self._sampled_at(state, incoming),
                bytes.fromhex(incoming.fingerprint),
                incoming.mac,
                ",".join(incoming.relay_path) or None,
                prepared.key_id or report_id,
                prepared.base_id,
                prepared.body,
            )
        )
        self._changed[state.ref] = state
        _advance(state, incoming, report_id)
        return report_id

    def _bind(self, incoming: Incoming) -> AgentState:
        report = incoming.report
        claim, hostname = agent_states.claim_of(report), hostname_of(report)
        state = agent_states.create(self._connection, report.agent_id, hostname, claim, incoming.received_at, None)
        self._states[report.agent_id] = state
        return state

    def _write_rows(self) -> None:
        if self._rows:
            self._connection.exec_driver_sql(_INSERT, self._rows)
            self._rows = []


def hostname_of(report: Report) -> str:
    """Return the name a node gives itself, or "" where its system could not be read."""
    return report.telemetry.system.hostname if report.telemetry.system else ""


def sampled_at(state: AgentState, incoming: Incoming) -> int | None:
    """Return when a sample that comes late says it was measured, by our clock; None if it comes in its order.

    Late is what lies below the highest sample that is known, and what was signed long after it was measured. Both of
    these moments are the sender's, so that the difference holds whatever its clock shows.
    """
    report = incoming.report
    age = report.timestamp - report.sampled_at
    if report.sample > state.highest_sample and age <= PROMPT_MS:
        return None
    return max(0, incoming.received_at - max(0, age))


def _advance(state: AgentState, incoming: Incoming, report_id: int) -> None:
    """Take over what a report tells: of the message if its tick is the highest, of the node if its sample is."""
    report = incoming.report
    heard_before = state.last_seen_at if state.highest_sample else None
    state.window = replay_windows.add(state.window, state.highest_tick, report.tick, report.nonce)
    if report.tick > state.highest_tick:
        state.highest_tick = report.tick
        state.last_seen_at = incoming.received_at
        state.fingerprint = incoming.fingerprint
        state.clock_offset = report.timestamp - incoming.received_at
    if report.sample > state.highest_sample:
        state.highest_sample = report.sample
        state.latest_report_id = report_id
        state.relay_path = ",".join(incoming.relay_path)
        if report.telemetry.system is not None:
            state.hostname = report.telemetry.system.hostname
            state.agent_version = report.telemetry.system.agent_version
        _advance_spool(state, report.telemetry.spool, incoming.received_at, heard_before)


def _advance_spool(state: AgentState, spool: Spool | None, now: int, heard_before: int | None) -> None:
    state.waiting = None if spool is None else max(0, spool.waiting)
    dropped = state.dropped if spool is None else max(0, spool.dropped)
    # One that fell began anew, with another state folder.
    if dropped and dropped != state.dropped:
        state.dropped_at, state.dropped_after = now, heard_before
    state.dropped = dropped
