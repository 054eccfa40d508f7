"""Filters of the playbooks: compare the hosts of the inventory with the agents that the manager knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# States in which the manager receives the agent's reports, directly or through a relay.
RECEIVED = ("reporting", "relayed")
# States of a unit that is not going to report without help.
STOPPED = ("inactive", "deactivating", "failed")
COLUMNS = ("HOST", "REPORTS", "LAST REPORT", "ARRIVES", "KEY", "AGENT")

Row = dict[str, Any]


class FilterModule:
    """The class that Ansible looks for in a filter plugin."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names in templates."""
        return {"report_status": report_status, "report_table": report_table}


def report_status(observed: Mapping[str, Sequence[Any]], answer: str, newer: bool = False) -> list[Row]:
    """Return a row for each host, in inventory order; `problem` is empty if the host reports.

    `can_change` is false for a problem that does not go away by waiting.

    observed: by host the contents of its agent's counters.json, empty if it could not be read, and the result of
    `systemctl show --property=ActiveState --value kattila-agent.service` on it. answer: the output of
    `kattila-manager agents --json`, empty if it failed. newer: whether the manager must have a newer sample than the
    counters. That proves that the agent runs, but takes up to an interval.
    """
    known = {agent["agent_id"]: agent for agent in json.loads(answer)["agents"]} if answer else {}
    return [_row(host, json.loads(text or "{}"), unit, known, newer) for host, (text, unit) in observed.items()]


def report_table(rows: Sequence[Row], current_key: str = "") -> list[str]:
    """Return the rows as lines with aligned columns; any key but `current_key` is marked as previous."""
    lines = [COLUMNS, *(_line(row, current_key) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _row(
    host: str,
    counters: Mapping[str, Any],
    unit: Mapping[str, Any],
    known: Mapping[str, Mapping[str, Any]],
    newer: bool,
) -> Row:
    agent_id = counters.get("agent_id", "")
    agent = known.get(agent_id)
    local = _local_problem(counters, unit)
    problem = local or _problem(counters["sample"] + newer, agent)
    return {"host": host, "agent_id": agent_id, "agent": agent, "problem": problem, "can_change": not local}


def _local_problem(counters: Mapping[str, Any], unit: Mapping[str, Any]) -> str:
    """Return what prevents a host from reporting, as seen on the host itself."""
    if unit.get("unreachable"):
        return "unreachable for Ansible"
    if not counters:
        return "no agent on the host"
    state = unit.get("stdout") or "inactive"
    # A unit that starts or reloads may report soon.
    return f"kattila-agent.service is {state}" if state in STOPPED else ""


def _problem(sample: int, agent: Mapping[str, Any] | None) -> str:
    if agent is None:
        return "unknown to the manager"
    if agent["state"] not in RECEIVED:
        return str(agent["state"])
    # An older state proves nothing: the agent may have stopped or started since.
    return "" if agent["highest_sample"] >= sample else f"sample {sample} has not arrived"


def _line(row: Row, current_key: str) -> tuple[str, ...]:
    host, reports, agent = row["host"], row["problem"] or "yes", row["agent"]
    if agent is None:
        return host, reports, "-", "-", "-", row["agent_id"] or "-"
    key = agent["fingerprint"] or "-"
    suffix = " (previous)" if current_key and key != current_key else ""
    return host, reports, f"{agent['age_seconds']} s ago", agent["arrives"], key + suffix, row["agent_id"]
