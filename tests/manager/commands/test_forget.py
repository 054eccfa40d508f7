"""`kattila-manager forget`: a removed node disappears, and its next report brings it back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kattila_manager.store import database
from kattila_manager.store.admin import migrating
from kattila_manager.store.read import queries
from support.commands import ONE, THREE, TWO, failed, run
from support.fleet import MINUTE, Fleet
from support.manager import Manager, now_ms
from support.reports import node, report
from support.store import older_database, sqlite


def names(manager: Manager) -> set[str]:
    shown = json.loads(run(manager, "agents", "--json").stdout)
    return {agent["agent_id"] for agent in shown["agents"]}


def open_alarms(manager: Manager) -> set[tuple[str, str]]:
    shown = json.loads(run(manager, "alarms", "--json").stdout)
    return {(alarm["kind"], alarm["agent_id"]) for alarm in shown["open"]}


@pytest.fixture
def silent(manager: Manager, fleet: Fleet) -> Fleet:
    """Return a fleet in which the second agent is silent, with refusals."""
    now = now_ms()
    fleet.change("UPDATE agents SET last_seen_at = ? WHERE agent_id = ?", now - 10 * MINUTE, TWO.agent_id)
    fleet.change("UPDATE receivers SET up_since = ?, alive_at = ?", now - 60 * MINUTE, now + MINUTE)
    fleet.refuse("replay", TWO.agent_id, 3, now)
    run(manager, "publish", "--once")
    assert {kind for kind, agent_id in open_alarms(manager) if agent_id == TWO.agent_id} >= {"agent_silent", "replay"}
    return fleet


def test_a_forgotten_agent_is_hidden_and_its_alarms_are_closed_and_stay_closed(manager: Manager, silent: Fleet) -> None:
    said = run(manager, "forget", TWO.hostname).stdout
    assert said.startswith(f"forgot {TWO.hostname} ({TWO.agent_id}): 3 alarms closed")
    for _ in range(2):
        assert names(manager) == {ONE.agent_id, THREE.agent_id}
        assert not {subject for subject in open_alarms(manager) if subject[1] == TWO.agent_id}
        run(manager, "publish", "--once")
    page = (manager.folder / "pages" / "index.html").read_text()
    assert f'id="agent-{TWO.agent_id}"' not in page
    assert TWO.hostname not in run(manager, "agents").stdout
    assert TWO.agent_id not in json.loads(run(manager, "keys", "--json").stdout)["agents"]


def test_its_closed_alarms_still_name_it(manager: Manager, silent: Fleet) -> None:
    run(manager, "forget", TWO.agent_id)
    lines = [line for line in run(manager, "alarms", "--all").stdout.splitlines() if "agent_silent" in line]
    assert [TWO.hostname in line for line in lines] == [True]


def test_its_reports_and_its_history_are_kept(manager: Manager, silent: Fleet) -> None:
    before = run(manager, "report", TWO.agent_id).stdout
    run(manager, "forget", TWO.agent_id)
    assert run(manager, "report", TWO.agent_id).stdout == before
    assert "reported direct" in run(manager, "history", TWO.hostname).stdout


def test_its_next_report_brings_it_back(manager: Manager, silent: Fleet) -> None:
    run(manager, "forget", TWO.agent_id)
    # Even if the clock of the manager was set back.
    silent.file(report(TWO, 3, now_ms()), at=now_ms() - 60 * MINUTE)
    assert names(manager) == {ONE.agent_id, TWO.agent_id, THREE.agent_id}


def test_a_late_sample_brings_it_back_too(manager: Manager, silent: Fleet) -> None:
    silent.file(report(TWO, 9, now_ms()))
    run(manager, "forget", TWO.agent_id)
    silent.file(report(TWO, 5, now_ms(), tick=10))
    assert TWO.agent_id in names(manager)


def test_neither_a_duplicate_nor_a_refusal_nor_a_reset_brings_it_back(manager: Manager, silent: Fleet) -> None:
    run(manager, "forget", TWO.agent_id)
    assert silent.file(report(TWO, 2, now_ms())).outcome == "duplicate"
    run(manager, "reset", TWO.agent_id)
    assert TWO.agent_id not in names(manager)
    # After a reset the ticks may be lower.
    silent.file(report(TWO, 3, now_ms(), tick=1))
    assert TWO.agent_id in names(manager)


def test_forgetting_again_hides_it_again(manager: Manager, silent: Fleet) -> None:
    for sample in (3, 4):
        for _ in range(2):
            run(manager, "forget", TWO.agent_id)
        assert TWO.agent_id not in names(manager)
        silent.file(report(TWO, sample, now_ms()))
        assert TWO.agent_id in names(manager)


def test_a_refusal_after_it_was_forgotten_raises_an_alarm(manager: Manager, silent: Fleet) -> None:
    run(manager, "forget", TWO.agent_id)
    silent.refuse("replay", TWO.agent_id, 1, now_ms() + MINUTE)
    run(manager, "publish", "--once")
    assert ("replay", TWO.agent_id) in open_alarms(manager)


def test_an_unknown_agent_is_an_error(manager: Manager, fleet: Fleet) -> None:
    assert "no agent has the id or the host name 'nobody'" in failed(manager, "forget", "nobody")
    assert len(names(manager)) == 3


def test_a_registered_agent_without_reports_can_be_forgotten(manager: Manager, fleet: Fleet) -> None:
    fleet.change("UPDATE agents SET latest_report_id = NULL, highest_tick = 0 WHERE agent_id = ?", TWO.agent_id)
    run(manager, "forget", TWO.agent_id)
    assert names(manager) == {ONE.agent_id, THREE.agent_id}
    fleet.file(report(TWO, 7, now_ms()))
    assert TWO.agent_id in names(manager)


def test_an_older_database_gets_the_table(tmp_path: Path) -> None:
    path = older_database(tmp_path, "0002")
    migrating.migrate(path, tmp_path, 0)
    with database.connected(path) as connection, connection.begin():
        assert queries.all_agents(connection) == ()
    with sqlite(path) as plain:
        assert plain.execute("SELECT count(*) FROM forgotten").fetchone() == (0,)


def test_silent_newcomers_are_forgotten_together_and_others_stay(manager: Manager, silent: Fleet) -> None:
    now = now_ms()
    for number in range(100, 140):
        silent.file(report(node(number), 1, now - 10 * MINUTE))
    silent.file(report(node(200), 1, now))
    silent.change("UPDATE agents SET first_seen_at = ? WHERE agent_id = ?", now - 60 * MINUTE, TWO.agent_id)
    assert run(manager, "forget", "--newcomers").stdout.startswith("forgot 40 new agents: 0 alarms closed")
    assert names(manager) == {sender.agent_id for sender in (ONE, TWO, THREE, node(200))}
    assert run(manager, "forget", "--newcomers").stdout.startswith("forgot 0 new agents")
    assert "one of the arguments AGENT --newcomers is required" in run(manager, "forget", code=2).stderr
