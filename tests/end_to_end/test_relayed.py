"""Reports that come through other agents, at the real manager: who is shown to arrive how, and what raises no alarm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kattila_protocol.report import Spool
from support.manager import Manager, now_ms, running_manager
from support.reports import Node, body, node, nonce_of, relayed, report

NEAR, MIDDLE, FAR, STRANGER = node(1), node(2), node(3), node(4)


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """A manager that only NEAR reaches; MIDDLE reports through it, FAR through both, and through one unknown here."""
    with running_manager(tmp_path_factory.mktemp("relayed")) as running:
        assert running.post(body(NEAR, 1, now_ms())).verdict(nonce_of(NEAR, 1, 1)).outcome == "accepted"
        send(running, MIDDLE, NEAR)
        send(running, FAR, STRANGER, MIDDLE, NEAR)
        running.command("publish", "--once")
        yield running


def send(manager: Manager, sender: Node, *relays: Node) -> None:
    said = report(sender, 1, now_ms())
    said = replace(said, telemetry=replace(said.telemetry, spool=Spool(12, 9000, 3)))
    assert manager.post(relayed(said, *relays)).verdict(said.nonce).outcome == "accepted"


def shown(relays: list[tuple[Node, str | None]]) -> list[dict[str, str | None]]:
    return [{"agent_id": relay.agent_id, "hostname": name} for relay, name in relays]


def test_readers_are_told_the_way_of_each_agent(manager: Manager) -> None:
    agents = {agent["agent_id"]: agent for agent in manager.get("/status/agents").members["agents"]}
    assert {agent_id: (agent["state"], agent["arrives"]) for agent_id, agent in agents.items()} == {
        NEAR.agent_id: ("reporting", "direct"),
        MIDDLE.agent_id: ("relayed", "relayed"),
        FAR.agent_id: ("relayed", "relayed"),
    }
    assert agents[NEAR.agent_id]["path"] == []
    assert agents[FAR.agent_id]["path"] == shown([(STRANGER, None), (MIDDLE, MIDDLE.hostname), (NEAR, NEAR.hostname)])
    assert agents[FAR.agent_id]["relay_path"] == [STRANGER.agent_id, MIDDLE.agent_id, NEAR.agent_id]
    assert (agents[FAR.agent_id]["waiting"], agents[FAR.agent_id]["dropped"]) == (12, 3)


def test_a_terminal_is_told_the_same(manager: Manager) -> None:
    header, *lines = manager.command("agents").stdout.splitlines()
    [far] = [line for line in lines if line.startswith(FAR.hostname)]
    assert far[header.index("STATE") :].startswith("relayed")
    assert far[header.index("SPOOL") :].startswith("12 waiting, 3 dropped")
    assert f"via {STRANGER.agent_id}, then {MIDDLE.hostname}"[:60] in far


def test_the_page_tells_the_same_and_calls_nobody_silent(manager: Manager) -> None:
    page = (manager.folder / "pages" / "index.html").read_text()
    assert f"via {STRANGER.agent_id}, then {MIDDLE.hostname}, then {NEAR.hostname}" in page
    assert "2 of 3 agents report only through others" in page
    assert "silent</h1>" not in page


def test_what_was_dropped_is_an_alarm_and_reporting_through_others_is_none(manager: Manager) -> None:
    alarms = json.loads(manager.command("alarms", "--json").stdout)["open"]
    assert {(alarm["kind"], alarm["agent_id"], alarm["count"]) for alarm in alarms} == {
        ("samples_dropped", MIDDLE.agent_id, 3),
        ("samples_dropped", FAR.agent_id, 3),
    }
