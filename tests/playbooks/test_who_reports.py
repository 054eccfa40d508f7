"""What verify.yml says of a host, from what the manager knows."""

from __future__ import annotations

import json
from typing import Any

from who_reports import FilterModule, table_of_reports, who_reports

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


def problems(counters: dict[str, str], told: str) -> dict[str, str]:
    return {row["host"]: row["problem"] for row in who_reports(counters, told)}


def test_a_host_that_reports_has_no_problem() -> None:
    assert problems({"north-db": COUNTERS}, answer()) == {"north-db": ""}


def test_a_host_that_is_heard_through_others_has_no_problem() -> None:
    assert problems({"north-db": COUNTERS}, answer(state="relayed")) == {"north-db": ""}


def test_a_host_without_an_agent_is_told() -> None:
    assert problems({"north-db": ""}, answer()) == {"north-db": "the host told of no agent"}


def test_an_agent_that_never_reported_is_told() -> None:
    assert problems({"north-db": COUNTERS}, answer(agent_id=ID[::-1])) == {
        "north-db": "the manager has not heard of it"
    }


def test_a_manager_that_does_not_answer_has_heard_of_nobody() -> None:
    assert problems({"north-db": COUNTERS}, "") == {"north-db": "the manager has not heard of it"}


def test_a_silent_agent_is_told() -> None:
    assert problems({"north-db": COUNTERS}, answer(state="silent")) == {"north-db": "silent"}


def test_what_came_before_its_newest_measurement_says_nothing_of_it() -> None:
    assert problems({"north-db": COUNTERS}, answer(highest_sample=42)) == {"north-db": ""}
    assert problems({"north-db": COUNTERS}, answer(highest_sample=40)) == {"north-db": "its sample 41 has not come"}


def test_the_table_says_how_fresh_and_under_which_key() -> None:
    rows = who_reports({"north-db": COUNTERS, "south-web": ""}, answer())
    assert table_of_reports(rows, "1938cb9f") == [
        "HOST       REPORTS                    LAST REPORT  ARRIVES  KEY       AGENT",
        f"north-db   yes                        7 s ago      direct   1938cb9f  {ID}",
        "south-web  the host told of no agent  -            -        -         -",
    ]


def test_an_older_key_is_called_previous() -> None:
    shown = table_of_reports(who_reports({"north-db": COUNTERS}, answer()), "7b2f3c10")
    assert "1938cb9f (previous)" in shown[1]


def test_ansible_finds_both_filters() -> None:
    assert set(FilterModule().filters()) == {"kattila_who_reports", "kattila_table_of_reports"}
