"""Relayed reports at the real manager: the paths that it shows, and the alarms that it raises or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kattila_protocol.report import Spool
from support.manager import Manager, now_ms, running_manager
from support.reports import Node, body, node, nonce_of, relayed, report

DIRECT, MIDDLE, FAR, UNKNOWN = node(1), node(2), node(3), node(4)


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """Run a manager that only DIRECT reaches; MIDDLE reports through it, and FAR through both and an unknown agent."""
    with running_manager(tmp_path_factory.mktemp("relayed")) as running:
        assert running.post(body(DIRECT, 1, now_ms())).verdict(nonce_of(DIRECT, 1, 1)).outcome == "accepted"
        send(running, MIDDLE, DIRECT)
        send(running, FAR, UNKNOWN, MIDDLE, DIRECT)
        running.command("publish", "--once")
        yield running


def send(manager: Manager, sender: Node, *relays: Node) -> None:
    content = report(sender, 1, now_ms())
    content = replace(content, telemetry=replace(content.telemetry, spool=Spool(12, 9000, 3)))
    assert manager.post(relayed(content, *relays)).verdict(content.nonce).outcome == "accepted"


def path_of(relays: list[tuple[Node, str | None]]) -> list[dict[str, str | None]]:
    return [{"agent_id": relay.agent_id, "hostname": name} for relay, name in relays]


def test_the_read_api_shows_the_path_of_each_agent(manager: Manager) -> None:
    agents = {agent["agent_id"]: agent for agent in manager.get("/status/agents").members["agents"]}
    assert {agent_id: (agent["state"], agent["arrives"]) for agent_id, agent in agents.items()} == {
        DIRECT.agent_id: ("reporting", "direct"),
        MIDDLE.agent_id: ("relayed", "relayed"),
        FAR.agent_id: ("relayed", "relayed"),
    }
    assert agents[DIRECT.agent_id]["path"] == []
    assert agents[FAR.agent_id]["path"] == path_of(
        [(UNKNOWN, None), (MIDDLE, MIDDLE.hostname), (DIRECT, DIRECT.hostname)]
    )
    assert agents[FAR.agent_id]["relay_path"] == [UNKNOWN.agent_id, MIDDLE.agent_id, DIRECT.agent_id]
    assert (agents[FAR.agent_id]["waiting"], agents[FAR.agent_id]["dropped"]) == (12, 3)


def test_the_agents_command_shows_the_same(manager: Manager) -> None:
    header, *lines = manager.command("agents").stdout.splitlines()
    [far] = [line for line in lines if line.startswith(FAR.hostname)]
    assert far[header.index("STATE") :].startswith("relayed")
    assert far[header.index("SPOOL") :].startswith("12 waiting, 3 dropped")
    assert f"via {UNKNOWN.agent_id}, then {MIDDLE.hostname}"[:60] in far


def test_the_page_shows_the_same_and_no_silent_agent(manager: Manager) -> None:
    page = (manager.folder / "pages" / "index.html").read_text()
    assert f"via {UNKNOWN.agent_id}, then {MIDDLE.hostname}, then {DIRECT.hostname}" in page
    assert "2 of 3 agents report only through relays" in page
    assert "silent</h1>" not in page


def test_dropped_samples_raise_an_alarm_and_relayed_reports_do_not(manager: Manager) -> None:
    alarms = json.loads(manager.command("alarms", "--json").stdout)["open"]
    assert {(alarm["kind"], alarm["agent_id"], alarm["count"]) for alarm in alarms} == {
        ("samples_dropped", MIDDLE.agent_id, 3),
        ("samples_dropped", FAR.agent_id, 3),
    }
