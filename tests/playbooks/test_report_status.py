"""verify.yml decides from the manager's answer whether a host reports."""

from __future__ import annotations

import json
from typing import Any

import pytest

from report_status import FilterModule, report_status, report_table

ID = "5f0c7a3e-1b2d-4c8e-9a6f-0123456789ab"
COUNTERS = json.dumps({"agent_id": ID, "sample": 41, "tick": 1041}) + "   "


def answer(**changed: Any) -> str:
    agent = {
        "agent_id": ID,
        "state": "reporting",
        "highest_sample": 41,
        "age_seconds": 7,
        "arrives": "direct",
        "fingerprint": "1938cb9f",
    }
    return json.dumps({"agents": [agent | changed]})


RUNS = {"stdout": "active"}


def observed(counters: dict[str, str], unit: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    return {host: (text, unit) for host, text in counters.items()}


def problems(counters: dict[str, str], output: str, newer: bool = False) -> dict[str, str]:
    return {row["host"]: row["problem"] for row in report_status(observed(counters, RUNS), output, newer)}


def test_a_host_that_reports_has_no_problem() -> None:
    assert problems({"north-db": COUNTERS}, answer()) == {"north-db": ""}


def test_a_host_whose_reports_are_relayed_has_no_problem() -> None:
    assert problems({"north-db": COUNTERS}, answer(state="relayed")) == {"north-db": ""}


def test_a_host_without_an_agent_is_named() -> None:
    assert problems({"north-db": ""}, answer()) == {"north-db": "no agent on the host"}


def test_an_agent_that_never_reported_is_named() -> None:
    assert problems({"north-db": COUNTERS}, answer(agent_id=ID[::-1])) == {"north-db": "unknown to the manager"}


def test_without_an_answer_from_the_manager_every_host_is_unknown() -> None:
    assert problems({"north-db": COUNTERS}, "") == {"north-db": "unknown to the manager"}


def test_a_silent_agent_is_named() -> None:
    assert problems({"north-db": COUNTERS}, answer(state="silent")) == {"north-db": "silent"}


def test_a_host_reports_only_once_its_newest_sample_has_arrived() -> None:
    assert problems({"north-db": COUNTERS}, answer(highest_sample=42)) == {"north-db": ""}
    assert problems({"north-db": COUNTERS}, answer(highest_sample=40)) == {"north-db": "sample 41 has not arrived"}


def test_verifying_takes_a_sample_after_the_newest_one_on_the_host() -> None:
    assert problems({"north-db": COUNTERS}, answer(highest_sample=41), newer=True) == {
        "north-db": "sample 42 has not arrived"
    }
    assert problems({"north-db": COUNTERS}, answer(highest_sample=42), newer=True) == {"north-db": ""}


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize(
    ("counters", "unit", "problem"),
    [
        (COUNTERS, {"stdout": "inactive"}, "kattila-agent.service is inactive"),
        (COUNTERS, {"stdout": "failed"}, "kattila-agent.service is failed"),
        (COUNTERS, {"stdout": "deactivating"}, "kattila-agent.service is deactivating"),
        (COUNTERS, {"stdout": "", "rc": 1}, "kattila-agent.service is inactive"),
        ("", {"stdout": "inactive"}, "no agent on the host"),
        ("", {"unreachable": True}, "unreachable for Ansible"),
        (COUNTERS, {"unreachable": True}, "unreachable for Ansible"),
    ],
)
def test_a_host_that_cannot_report_is_named_at_once(
    counters: str, unit: dict[str, Any], problem: str, newer: bool
) -> None:
    (row,) = report_status({"north-db": (counters, unit)}, answer(highest_sample=99), newer)
    assert (row["problem"], row["can_change"]) == (problem, False)


@pytest.mark.parametrize("state", ["active", "activating", "reloading"])
def test_a_host_whose_agent_runs_or_starts_is_waited_for(state: str) -> None:
    (row,) = report_status({"north-db": (COUNTERS, {"stdout": state})}, answer(highest_sample=40))
    assert (row["problem"], row["can_change"]) == ("sample 41 has not arrived", True)


def test_the_table_shows_age_and_key_of_the_last_report() -> None:
    rows = report_status(observed({"north-db": COUNTERS, "south-web": ""}, RUNS), answer())
    assert report_table(rows, "1938cb9f") == [
        "HOST       REPORTS               LAST REPORT  ARRIVES  KEY       AGENT",
        f"north-db   yes                   7 s ago      direct   1938cb9f  {ID}",
        "south-web  no agent on the host  -            -        -         -",
    ]


def test_an_older_key_is_marked_as_previous() -> None:
    shown = report_table(report_status(observed({"north-db": COUNTERS}, RUNS), answer()), "7b2f3c10")
    assert "1938cb9f (previous)" in shown[1]


def test_ansible_finds_both_filters() -> None:
    assert set(FilterModule().filters()) == {"report_status", "report_table"}
