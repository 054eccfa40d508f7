"""`history`: shows the history of a node, as spans of time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any

from kattila_manager import compose, wording
from kattila_manager.alarms.alarm_rules import name_of
from kattila_manager.api import fleet_json
from kattila_manager.commands.errors import Say
from kattila_manager.commands.fleet import find_agent
from kattila_manager.commands.text_table import table
from kattila_manager.config import Config
from kattila_manager.records import Agent
from kattila_manager.store.read import queries, report_history
from kattila_manager.store.store import open_existing
from kattila_manager.topology import history
from kattila_manager.topology.history import Continuity, Span, SpanKind
from kattila_manager.topology.presence import MISSED_REPORTS, interval_of

_WORDS = {
    SpanKind.CUT_OFF: "cut off but alive",
    SpanKind.MISSING: "missing",
    SpanKind.STOPPED: "nothing measured",
    SpanKind.REBOOTED: "rebooted",
    SpanKind.SILENT: "no report since",
}


def show(config: Config, say: Say, wanted: str, since: int | None, *, as_json: bool) -> int:
    """Show the history of an agent, since a time (ms UTC) or as far back as its reports are kept.

    Raises:
        CommandError: no agent matches, or several do.
    """
    with closing(open_existing(config.database)) as store:
        fleet = store.read(queries.known_agents)
        agent = find_agent(fleet, wanted)
        arrived, reboots = store.read(
            lambda connection: (
                report_history.arrivals(connection, agent.ref, since),
                report_history.reboots(connection, agent.ref),
            )
        )
    continuity = Continuity(reboots, MISSED_REPORTS * interval_of(agent, config.interval_seconds * 1000))
    spans = history.spans(arrived, continuity, compose.clock())
    if as_json:
        say(json.dumps(_members(agent, spans, {one.agent_id: one.hostname for one in fleet}), indent=2))
        return 0
    names = {one.agent_id: name_of(one) for one in fleet}
    lines = [_line(span, names) for span in spans]
    measured = "" if since is None else f" measured since {wording.moment(since)}"
    none = f"No report of {name_of(agent)}{measured} is stored."
    say(table(("FROM", "TO", "LASTED", "SAMPLES", "WHAT"), lines) if lines else none)
    return 0


def _line(span: Span, names: Mapping[str, str]) -> tuple[str, ...]:
    is_moment = span.kind is SpanKind.REBOOTED
    return (
        wording.moment(span.from_at),
        "" if is_moment else wording.moment(span.to_at),
        "" if is_moment else wording.duration(span.to_at - span.from_at),
        _samples(span),
        _WORDS.get(span.kind)
        or f"reported {wording.path_text([names.get(relay, relay) for relay in span.relay_path])}",
    )


def _samples(span: Span) -> str:
    if span.kind is SpanKind.REPORTED and span.late:
        return f"{span.samples:,}, {span.late:,} late"
    return f"{span.samples:,}{' late' if span.late else ''}" if span.samples else ""


def _members(agent: Agent, spans: tuple[Span, ...], hostnames: Mapping[str, str]) -> dict[str, Any]:
    shown = []
    for span in spans:
        members = asdict(span)
        del members["relay_path"]
        shown.append(members | {"path": fleet_json.path(span.relay_path, hostnames)})
    return {"agent_id": agent.agent_id, "hostname": agent.hostname, "spans": shown}
