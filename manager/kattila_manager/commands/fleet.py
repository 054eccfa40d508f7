"""`agents`, `alarms`, `report`, `reset` and `forget`: show and change the fleet registry."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

from kattila_manager import compose, wording
from kattila_manager.alarms.alarm_rules import name_of
from kattila_manager.api import fleet_json
from kattila_manager.commands import output
from kattila_manager.commands.errors import CommandError, Say
from kattila_manager.commands.text_table import table
from kattila_manager.config import Config
from kattila_manager.pages.index_page import AgentRow, AlarmRow, agent_rows, alarm_rows
from kattila_manager.records import Agent, Record
from kattila_manager.store.admin import forgetting
from kattila_manager.store.ingest import registry
from kattila_manager.store.read import queries
from kattila_manager.store.read.snapshots import read_snapshot
from kattila_manager.store.store import open_existing
from kattila_manager.topology.newcomers import is_new
from kattila_manager.topology.presence import MISSED_REPORTS
from kattila_protocol import canonical

_CLOSED_SHOWN = 100
# Agents that are forgotten in one transaction, while other writers wait.
_SLICE_AGENTS = 200
# In a terminal, a long name must not push the other columns out of sight.
_NAME_LENGTH = 32
_DETAIL_LENGTH = 200


def agents(config: Config, say: Say, *, as_json: bool) -> int:
    """Show all agents, problems first."""
    now = compose.clock()
    with closing(open_existing(config.database)) as store:
        if as_json:
            say(_json(fleet_json.agents(store, config.interval_seconds * 1000, now, with_all=True)))
            return 0
        snapshot = store.read(lambda connection: read_snapshot(connection, {}, now))
    rows = agent_rows(compose.make_page_data(config, snapshot, now))
    header = ("AGENT", "ID", "STATE", "LAST REPORT", "ARRIVES", "SPOOL", "KEY", "VERSION", "CLOCK", "LABELS")
    say(table(header, [_agent_line(row) for row in rows]) if rows else "No agent has reported yet.")
    return 0


def alarms(config: Config, say: Say, *, as_json: bool, with_closed: bool) -> int:
    """Show the open alarms, and with `with_closed` the newest closed ones."""
    with closing(open_existing(config.database)) as store:
        if as_json:
            shown = fleet_json.alarms(store)
            say(_json(shown if with_closed else {"open": shown["open"]}))
            return 0
        fleet, opened, closed = store.read(
            lambda connection: (
                queries.known_agents(connection),
                queries.open_alarms(connection),
                queries.closed_alarms(connection, _CLOSED_SHOWN) if with_closed else (),
            )
        )
    rows = alarm_rows((*opened, *closed), fleet, compose.clock())
    header = ("SINCE", *(("CLOSED",) if with_closed else ()), "ALARM", "AGENT", "COUNT", "LAST SEEN", "DETAIL")
    none = "There has never been an alarm." if with_closed else "No alarm is open."
    say(table(header, [_alarm_line(row, with_closed) for row in rows]) if rows else none)
    return 0


def report(config: Config, wanted: str, sample: int | None, *, envelope: bool) -> int:
    """Write a report's DATA to stdout, byte for byte as it was signed; `envelope` adds its MAC and how it arrived."""
    with closing(open_existing(config.database)) as store:
        agent = find_agent(store.read(queries.known_agents), wanted)
        record = store.read(lambda connection: queries.record(connection, agent.agent_id, sample))
    if record is None:
        which = "report" if sample is None else f"report with sample {sample}"
        raise CommandError(f"no {which} of {name_of(agent)} ({agent.agent_id}) is stored; it may have been pruned")
    output.write(_with_envelope(record) if envelope else record.data)
    return 0


def reset(config: Config, say: Say, wanted: str | None) -> int:
    """Forget the state of one agent, or of all (None), like POST /status/admin/reset."""
    with closing(open_existing(config.database)) as store:
        agent = None if wanted is None else find_agent(store.read(queries.known_agents), wanted)
        agent_id = None if agent is None else agent.agent_id
        count = store.write(lambda connection: registry.reset(connection, agent_id, compose.clock()))
    whom = f"{name_of(agent)} ({agent.agent_id})" if agent else f"all {wording.plural(count, 'agent')}"
    say(
        f"reset {whom}: ticks, nonces, sample numbers, machine and refusal counters are forgotten; messages signed "
        "before now are refused; the reports are kept, and the next one binds the id again"
    )
    return 0


def forget(config: Config, say: Say, wanted: str | None) -> int:
    """Hide an agent until its next report, and close its alarms; None: all new agents that no longer report."""
    if wanted is None:
        return _forget_newcomers(config, say)
    with closing(open_existing(config.database)) as store:
        agent = find_agent(store.read(queries.known_agents), wanted)
        # The publisher compares alarms, and then writes them.
        with store.publishing():
            count = store.write(lambda connection: forgetting.forget(connection, agent.ref, compose.clock()))
    say(
        f"forgot {name_of(agent)} ({agent.agent_id}): {wording.plural(count, 'alarm')} closed; it is hidden until its "
        "next report, and its reports are kept"
    )
    return 0


def _forget_newcomers(config: Config, say: Say) -> int:
    now, closed = compose.clock(), 0
    quiet_ms = MISSED_REPORTS * config.interval_seconds * 1000
    with closing(open_existing(config.database)) as store, store.publishing():
        fleet = store.read(queries.all_agents)
        silent = [agent.ref for agent in fleet if is_new(agent) and now - agent.last_seen_at > quiet_ms]
        for start in range(0, len(silent), _SLICE_AGENTS):
            part = silent[start : start + _SLICE_AGENTS]
            closed += store.write(partial(forgetting.forget_all, agent_refs=part, now=now))
    say(
        f"forgot {wording.plural(len(silent), 'new agent')}: {wording.plural(closed, 'alarm')} closed; each is hidden "
        "until its next report, and its reports are kept"
    )
    return 0


def find_agent(fleet: Sequence[Agent], wanted: str) -> Agent:
    """Return the agent with this id, host name, or unique prefix of an id.

    Raises:
        CommandError: no agent matches, or several do.
    """
    rules: tuple[Callable[[Agent], bool], ...] = (
        lambda agent: agent.agent_id == wanted.lower(),
        lambda agent: agent.hostname == wanted or (wanted != "" and agent.agent_id.startswith(wanted.lower())),
    )
    for rule in rules:
        found = [agent for agent in fleet if rule(agent)]
        if len(found) == 1:
            return found[0]
        if found:
            names = "\n".join(f"  {agent.agent_id}  {name_of(agent)}" for agent in found)
            raise CommandError(f"{wanted!r} matches {len(found)} agents; give the id of one:\n{names}")
    raise CommandError(f"no agent has the id or the host name {wanted!r}; run 'kattila-manager agents' to list them")


def _agent_line(row: AgentRow) -> tuple[str, ...]:
    key = f"{row.fingerprint} {row.key_is}".strip() or "-"
    name, version = wording.shown(row.name, _NAME_LENGTH), row.version or "-"
    labels = " ".join(row.labels) or "-"
    arrives, spool = wording.shown(row.arrives, 2 * _NAME_LENGTH), row.spool or "-"
    arrival = (row.state, row.last_report.ago, arrives, spool)
    return (name, row.short_id, *arrival, key, version, row.clock_offset, labels)


def _alarm_line(row: AlarmRow, with_closed: bool) -> tuple[str, ...]:
    closed = (row.closed.text if row.closed else "open",) if with_closed else ()
    agent = wording.shown(row.agent, 36) or "-"
    return (
        row.opened.text,
        *closed,
        row.kind,
        agent,
        row.count,
        row.last.ago,
        wording.shown(row.detail, _DETAIL_LENGTH),
    )


def _with_envelope(record: Record) -> bytes:
    kept = {
        "hmac": record.mac,
        "relay_path": record.relay_path,
        "fingerprint": record.fingerprint,
        "received_at": record.received_at,
        "sampled_at": record.sampled_at,
    }
    # DATA is inserted unchanged; encoding it again might change it.
    return b'{"data":' + record.data + b"," + canonical.encode(kept)[1:] + b"\n"


def _json(value: object) -> str:
    return json.dumps(value, indent=2)
