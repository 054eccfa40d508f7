"""Filters of the playbooks: compare the hosts of the inventory with the agents that the manager knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# States in which the manager receives the agent's reports, directly or through a relay.
RECEIVED = ("reporting", "relayed")
COLUMNS = ("HOST", "REPORTS", "LAST REPORT", "ARRIVES", "KEY", "AGENT")

Row = dict[str, Any]


class FilterModule:
    """The class that Ansible looks for in a filter plugin."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names in templates."""
        return {"kattila_report_status": report_status, "kattila_report_table": report_table}


def report_status(counters: Mapping[str, str], answer: str) -> list[Row]:
    """Return a row for each host, in inventory order; `problem` is empty if the host reports.

    counters: by host the contents of its agent's counters.json, empty if it could not be read. answer: the output of
    `kattila-manager agents --json`, empty if it failed.
    """
    known = {agent["agent_id"]: agent for agent in json.loads(answer)["agents"]} if answer else {}
    return [_row(host, json.loads(text or "{}"), known) for host, text in counters.items()]


def report_table(rows: Sequence[Row], current_key: str = "") -> list[str]:
    """Return the rows as lines with aligned columns; any key but `current_key` is marked as previous."""
    lines = [COLUMNS, *(_line(row, current_key) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _row(host: str, counters: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> Row:
    agent_id = counters.get("agent_id", "")
    agent = known.get(agent_id)
    return {"host": host, "agent_id": agent_id, "agent": agent, "problem": _problem(counters, agent)}


def _problem(counters: Mapping[str, Any], agent: Mapping[str, Any] | None) -> str:
    if not counters:
        return "no agent on the host"
    if agent is None:
        return "unknown to the manager"
    if agent["state"] not in RECEIVED:
        return str(agent["state"])
    # Reports from before a restart prove nothing, so the agent's newest sample has to have arrived.
    return "" if agent["highest_sample"] >= counters["sample"] else f"sample {counters['sample']} has not arrived"


def _line(row: Row, current_key: str) -> tuple[str, ...]:
    host, reports, agent = row["host"], row["problem"] or "yes", row["agent"]
    if agent is None:
        return host, reports, "-", "-", "-", row["agent_id"] or "-"
    key = agent["fingerprint"] or "-"
    suffix = " (previous)" if current_key and key != current_key else ""
    return host, reports, f"{agent['age_seconds']} s ago", agent["arrives"], key + suffix, row["agent_id"]
