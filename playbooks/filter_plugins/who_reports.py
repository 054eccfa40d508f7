"""Filters of the playbooks: what the manager knows of each host of the inventory.

May live here: values to values, with the standard library alone. Not here: asking, which playbooks/tasks do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# States in which the manager hears of an agent, from itself or through others.
HEARD = ("reporting", "relayed")
COLUMNS = ("HOST", "REPORTS", "LAST REPORT", "ARRIVES", "KEY", "AGENT")

Row = dict[str, Any]


class FilterModule:
    """What Ansible looks for in this folder."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names in templates."""
        return {"kattila_who_reports": who_reports, "kattila_table_of_reports": table_of_reports}


def who_reports(counters: Mapping[str, str], answer: str) -> list[Row]:
    """Return a row for each host, in the order of the inventory; `problem` is empty if it reports.

    counters: by host the text of its agent's counters.json, empty where the host could not tell it. answer: the text
    that `kattila-manager agents --json` printed, empty if it failed.
    """
    known = {agent["agent_id"]: agent for agent in json.loads(answer)["agents"]} if answer else {}
    return [_row(host, json.loads(text or "{}"), known) for host, text in counters.items()]


def table_of_reports(rows: Sequence[Row], current_key: str = "") -> list[str]:
    """Return the rows as lines with aligned columns; a key other than the current one is called previous."""
    lines = [COLUMNS, *(_line(row, current_key) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _row(host: str, counted: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> Row:
    agent_id = counted.get("agent_id", "")
    agent = known.get(agent_id)
    return {"host": host, "agent_id": agent_id, "agent": agent, "problem": _problem(counted, agent)}


def _problem(counted: Mapping[str, Any], agent: Mapping[str, Any] | None) -> str:
    if not counted:
        return "the host told of no agent"
    if agent is None:
        return "the manager has not heard of it"
    if agent["state"] not in HEARD:
        return str(agent["state"])
    # What it measured last may be from after a restart, of which what came before says nothing.
    return "" if agent["highest_sample"] >= counted["sample"] else f"its sample {counted['sample']} has not come"


def _line(row: Row, current_key: str) -> tuple[str, ...]:
    host, reports, agent = row["host"], row["problem"] or "yes", row["agent"]
    if agent is None:
        return host, reports, "-", "-", "-", row["agent_id"] or "-"
    key = agent["fingerprint"] or "-"
    old = " (previous)" if current_key and key != current_key else ""
    return host, reports, f"{agent['age_seconds']} s ago", agent["arrives"], key + old, row["agent_id"]
