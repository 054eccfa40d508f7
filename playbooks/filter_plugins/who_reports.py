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


def who_reports(ids: Mapping[str, str], answer: str, since: int = 0) -> list[Row]:
    """Return a row for each host, in the order of the inventory; `problem` is empty if it reports.

    ids: by host the id of its agent, empty where the host could not tell it. answer: the text that
    `kattila-manager agents --json` printed, empty if it failed. since: ms UTC of the manager's clock; a report that
    came before is none.
    """
    known = {agent["agent_id"]: agent for agent in json.loads(answer)["agents"]} if answer else {}
    return [_row(host, agent_id, known.get(agent_id), since) for host, agent_id in ids.items()]


def table_of_reports(rows: Sequence[Row], current_key: str = "") -> list[str]:
    """Return the rows as lines with aligned columns; a key other than the current one is called previous."""
    lines = [COLUMNS, *(_line(row, current_key) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _row(host: str, agent_id: str, agent: Mapping[str, Any] | None, since: int) -> Row:
    return {"host": host, "agent_id": agent_id, "agent": agent, "problem": _problem(agent_id, agent, since)}


def _problem(agent_id: str, agent: Mapping[str, Any] | None, since: int) -> str:
    if not agent_id:
        return "the host told no agent id"
    if agent is None:
        return "the manager has not heard of it"
    if agent["state"] not in HEARD:
        return str(agent["state"])
    return "" if agent["last_seen_at"] > since else "not since it was set up"


def _line(row: Row, current_key: str) -> tuple[str, ...]:
    host, reports, agent = row["host"], row["problem"] or "yes", row["agent"]
    if agent is None:
        return host, reports, "-", "-", "-", row["agent_id"] or "-"
    key = agent["fingerprint"] or "-"
    old = " (previous)" if current_key and key != current_key else ""
    return host, reports, f"{agent['age_seconds']} s ago", agent["arrives"], key + old, row["agent_id"]
