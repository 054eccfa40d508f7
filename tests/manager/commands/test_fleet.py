"""The commands agents, alarms, report, history and reset."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from kattila_manager.store.read import queries
from kattila_protocol import canonical
from kattila_protocol.signing import Purpose
from support.commands import FOUR, HOSTILE, OLD_KEY, ONE, THREE, TWO, failed, run
from support.fleet import HOUR, MINUTE, Fleet
from support.manager import Manager, now_ms
from support.reports import KEY, node, report

# --- agents, alarms


def test_agents_prints_a_table(manager: Manager, fleet: Fleet) -> None:
    fleet.file(report(replace(node(4), hostname=HOSTILE), 1, now_ms()))
    shown = run(manager, "agents").stdout
    header, *lines = shown.splitlines()
    assert header.split("  ")[0] == "AGENT"
    assert len(lines) == 4
    assert all(line.index("reporting") == header.index("STATE") for line in lines)
    [two] = [line for line in lines if line.startswith(TWO.hostname)]
    assert two.split()[1:3] == [TWO.agent_id[:8], "reporting"]
    assert f"{OLD_KEY.fingerprint} previous" in two
    assert two.endswith("site=north")
    assert "\x1b" not in shown
    assert "\\u001b[2J\\u202eevil" in shown


def test_agents_prints_json(manager: Manager, fleet: Fleet) -> None:
    members = json.loads(run(manager, "agents", "--json").stdout)
    assert members["listening"] is True
    assert [agent["hostname"] for agent in members["agents"]] == [ONE.hostname, TWO.hostname, THREE.hostname]
    assert {agent["state"] for agent in members["agents"]} == {"reporting"}


def test_alarms_open_and_closed(manager: Manager, fleet: Fleet) -> None:
    assert run(manager, "alarms").stdout == "No alarm is open.\n"
    assert run(manager, "alarms", "--all").stdout == "There has never been an alarm.\n"
    run(manager, "publish", "--once")
    fleet.file(report(TWO, 3, now_ms()))
    fleet.refuse("replay", ONE.agent_id, 1234, now_ms(), detail=HOSTILE)
    run(manager, "publish", "--once")
    shown = run(manager, "alarms").stdout
    assert "previous_key" not in shown
    header, line = shown.splitlines()
    assert "1,234" in line
    assert line.index("replay") == header.index("ALARM")
    assert line.index(ONE.hostname) == header.index("AGENT")
    assert "\x1b" not in shown
    assert "previous_key" in run(manager, "alarms", "--all").stdout
    members = json.loads(run(manager, "alarms", "--all", "--json").stdout)
    assert [alarm["kind"] for alarm in members["open"]] == ["replay"]
    assert [alarm["kind"] for alarm in members["closed"]] == ["previous_key"]


# --- report


@pytest.mark.parametrize("name", [TWO.agent_id, TWO.agent_id.upper(), TWO.agent_id[:6], TWO.hostname])
def test_a_report_is_printed_byte_for_byte(manager: Manager, fleet: Fleet, name: str) -> None:
    shown = run(manager, "report", name).stdout
    record = fleet.store.read(lambda connection: queries.record(connection, TWO.agent_id, None))
    assert record is not None
    assert record.sample == 2
    assert shown.encode() == record.data
    assert OLD_KEY.matches(Purpose.REPORT, shown.encode(), record.mac)


def test_an_older_report_and_its_envelope(manager: Manager, fleet: Fleet) -> None:
    members = json.loads(run(manager, "report", ONE.hostname, "--sample", "1", "--envelope").stdout)
    assert members["data"]["sample"] == 1
    assert members["fingerprint"] == KEY.fingerprint
    assert members["relay_path"] == []
    assert KEY.matches(Purpose.REPORT, canonical.encode(members["data"]), members["hmac"])


def test_a_name_without_a_unique_match_is_an_error(manager: Manager, fleet: Fleet) -> None:
    assert "no agent has the id or the host name 'nobody'" in failed(manager, "report", "nobody")
    fleet.file(report(replace(node(4), hostname=ONE.hostname), 1, now_ms()))
    message = failed(manager, "report", ONE.hostname)
    assert "matches 2 agents; give the id of one:" in message
    assert ONE.agent_id in message
    assert node(4).agent_id in message
    assert "no report with sample 99" in failed(manager, "report", TWO.hostname, "--sample", "99")


# --- history


def _cut_off_and_back(fleet: Fleet) -> None:
    """An hour ago FOUR reported through TWO, was cut off for ten minutes, and returned; two samples were dropped."""
    began = now_ms() - HOUR
    for sample in (3, 4):
        fleet.file(report(FOUR, sample, began + sample * MINUTE), relays=(TWO.agent_id,))
    back = began + 17 * MINUTE
    fleet.file(report(FOUR, 17, back))
    for sample in range(5, 15):
        fleet.file(report(FOUR, sample, back, tick=13 + sample, sampled_at=began + sample * MINUTE))


def test_history_prints_a_table(manager: Manager, fleet: Fleet) -> None:
    _cut_off_and_back(fleet)
    header, *lines = run(manager, "history", FOUR.hostname, "--since", "2h").stdout.splitlines()
    assert header.split() == ["FROM", "TO", "LASTED", "SAMPLES", "WHAT"]
    *told, (silent_for, silent) = [re.split(r" {2,}", line)[2:] for line in lines]
    assert told == [
        ["1 min", "2", f"reported via {TWO.hostname}"],
        ["9 min", "10 late", "cut off but alive"],
        ["3 min", "2", "missing"],
        ["0 s", "1", "reported direct"],
    ]
    assert silent == "no report since"
    assert silent_for.startswith("43 min")
    assert len(run(manager, "history", FOUR.hostname, "--since", "50min").stdout.splitlines()) == 1 + 4


def test_history_prints_json(manager: Manager, fleet: Fleet) -> None:
    _cut_off_and_back(fleet)
    members = json.loads(run(manager, "history", FOUR.agent_id, "--json").stdout)
    assert (members["agent_id"], members["hostname"]) == (FOUR.agent_id, FOUR.hostname)
    assert [(span["kind"], span["samples"], span["late"]) for span in members["spans"]] == [
        ("reported", 2, 0),
        ("cut_off", 10, 10),
        ("missing", 2, 0),
        ("reported", 1, 0),
        ("silent", 0, 0),
    ]
    relayed = members["spans"][0]
    assert relayed["path"] == [{"agent_id": TWO.agent_id, "hostname": TWO.hostname}]
    assert (relayed["first_sample"], relayed["last_sample"]) == (3, 4)
    assert relayed["to_at"] - relayed["from_at"] == MINUTE


def test_history_without_reports(manager: Manager, fleet: Fleet) -> None:
    words = run(manager, "history", ONE.hostname, "--since", "2100-01-31 12:00").stdout
    assert words == f"No report of {ONE.hostname} measured since 2100-01-31 12:00:00 UTC is stored.\n"
    assert "no agent has the id or the host name 'nobody'" in failed(manager, "history", "nobody")


# --- reset


def test_a_reset_forgets_one_agent(manager: Manager, fleet: Fleet) -> None:
    shown = run(manager, "reset", ONE.hostname).stdout
    assert shown.startswith(f"reset {ONE.hostname} ({ONE.agent_id}): ")
    assert fleet.members(ONE.agent_id)["highest_tick"] == 0
    assert fleet.members(ONE.agent_id)["reset_at"] > 0
    assert fleet.members(TWO.agent_id)["highest_tick"] == 2


def test_a_reset_forgets_all(manager: Manager, fleet: Fleet) -> None:
    assert run(manager, "reset", "--all").stdout.startswith("reset all 3 agents: ")
    assert fleet.rows("SELECT DISTINCT highest_tick FROM agents") == [(0,)]
