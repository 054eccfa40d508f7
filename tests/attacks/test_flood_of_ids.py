"""A PSK holder who invents agents and boots: the manager stays usable, and honest agents lose nothing."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from kattila_manager.api import fleet_json
from kattila_manager.pages import index_page
from kattila_protocol.freshness import MAX_SKEW_MS
from support.fleet import DAY, HOUR, MINUTE, NOON, SECOND, Fleet, fleet_in
from support.manager import REGISTER, Manager, now_ms, running_manager
from support.publisher import cycle, opened, page
from support.raw_http import JSON, all_at_once, replies, request, updates
from support.reports import Node, body, node, nonce_of, registering, report
from support.waiting import PATIENCE_SECONDS, wait_for

MANY = 900
PER_SOURCE = 60
HONEST = [node(number) for number in range(1, 21)]


def limited(folder: Path) -> AbstractContextManager[Manager]:
    """Run a manager with two workers, which takes few new agents from one source."""
    return running_manager(folder, NEW_AGENTS_PER_MINUTE="600", NEW_AGENTS_PER_SOURCE=str(PER_SOURCE))


def invented(count: int) -> list[Node]:
    return [replace(node(each), agent_id=str(uuid.uuid4()), boot_id=str(uuid.uuid4())) for each in range(count)]


def statuses(manager: Manager, sent: list[bytes]) -> list[int]:
    parts = (sent[start : start + 100] for start in range(0, len(sent), 100))
    return [reply.status for part in parts for reply in all_at_once(manager.port, part)]


def known(manager: Manager) -> int:
    return int(manager.rows("SELECT count(*) FROM agents")[0][0])


def most_since(began_at: int) -> float:
    """Return how many new agents one source may have since a time: those of a minute, and those that follow."""
    return PER_SOURCE * (1 + (now_ms() - began_at) / MINUTE) + 1


# --- At the server


def test_reports_under_invented_ids_are_limited(tmp_path: Path) -> None:
    with limited(tmp_path) as manager:
        began_at = now_ms()
        found = statuses(manager, [updates(body(sender, 1, now_ms())) for sender in invented(MANY)])
        assert PER_SOURCE <= known(manager) <= most_since(began_at)
        assert {status: found.count(status) for status in set(found)} == {
            200: known(manager),
            503: MANY - known(manager),
        }


def test_registrations_of_invented_ids_are_limited(tmp_path: Path) -> None:
    with limited(tmp_path) as manager:
        began_at = now_ms()
        sent = [request("POST", REGISTER, registering(sender, now_ms()), JSON) for sender in invented(MANY)]
        statuses(manager, sent)
        assert PER_SOURCE <= known(manager) <= most_since(began_at)


def test_clones_of_one_agent_are_limited(tmp_path: Path) -> None:
    with limited(tmp_path) as manager:
        began_at, original = now_ms(), node(1)
        manager.post(body(original, 1, now_ms()))
        for number in range(2, 2 * PER_SOURCE):
            # The original's report shows that the clone is another machine, which then gets another id.
            clone = original.cloned(number)
            manager.post(registering(clone, now_ms()), REGISTER)
            manager.post(body(original, number, now_ms()))
            manager.post(registering(clone, now_ms(), attempt=2), REGISTER)
        assert PER_SOURCE <= known(manager) <= most_since(began_at)


def test_a_flood_of_one_source_leaves_room_for_new_agents_of_others(tmp_path: Path) -> None:
    with limited(tmp_path) as manager:
        manager.post(body(HONEST[0], 1, now_ms()))
        assert 503 in statuses(manager, [updates(body(sender, 1, now_ms())) for sender in invented(MANY)])
        assert accepted_from(manager, "127.0.0.1", HONEST[0], 2)
        assert accepted_from(manager, "127.0.0.9", HONEST[1], 1)


def accepted_from(manager: Manager, source: str, sender: Node, sample: int) -> bool:
    address = ("127.0.0.1", manager.port)
    with socket.create_connection(address, PATIENCE_SECONDS, source_address=(source, 0)) as connection:
        connection.sendall(updates(body(sender, sample, now_ms())))
        received = b""
        while part := connection.recv(65536):
            received += part
    (reply,) = replies(received)
    return reply.verdict(nonce_of(sender, sample, sample)).outcome == "accepted"


def test_boots_under_one_id_do_not_pile_up(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        for number in range(1, 200):
            sender = node(1).rebooted(number)
            assert manager.post(body(sender, number, now_ms())).status == 200
        assert manager.rows("SELECT count(*) FROM agent_boots")[0][0] < 100
        # A boot that returns is the other one of two machines, even if it was forgotten: the second return shows it.
        outcomes = [
            manager.post(body(node(1).rebooted(boot), sample, now_ms()))
            .members.get("type", "accepted")
            .rpartition(":")[2]
            for sample, boot in enumerate((190, 199, 5, 190, 5), 500)
        ]
        assert outcomes == ["accepted", "identity_conflict", "accepted", "accepted", "identity_conflict"]


def test_hardware_within_one_boot_does_not_pile_up(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        for number in range(1, 200):
            sender = replace(node(1), hardware=node(number).hardware)
            manager.post(body(sender, number, now_ms()))
        assert manager.rows("SELECT count(*) FROM agent_boots")[0][0] < 100


def test_refusals_under_invented_ids_are_counted_together(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        early = now_ms() - MAX_SKEW_MS - MINUTE
        assert set(statuses(manager, [updates(body(sender, 1, early)) for sender in invented(MANY)])) == {409}
        counted = "SELECT sum(count) FROM refusals WHERE kind = 'clock_skew'"
        wait_for(lambda: manager.rows(counted) == [(MANY,)], "all refusals to be counted")
        assert manager.rows("SELECT count(*) FROM refusals")[0][0] <= 20
        assert manager.command("publish", "--once").returncode == 0
        shown = json.loads(manager.command("alarms", "--json").stdout)
        assert len(shown["open"]) <= 20


# --- At the publisher


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet of 20 agents that have reported for an hour, until noon."""
    with fleet_in(tmp_path) as fleet:
        fleet.beat(NOON - HOUR)
        fleet.change("UPDATE receivers SET alive_at = ?", NOON)
        for sender in HONEST:
            fleet.file(report(sender, 1, NOON - HOUR))
            fleet.file(report(sender, 2, NOON - 5 * SECOND))
        yield fleet


def flood(fleet: Fleet, at: int) -> None:
    """Store what invented agents leave behind, as if no limit had stopped them."""
    for sender in invented(MANY):
        fleet.file(report(sender, 1, at))


def test_invented_agents_that_fall_silent_have_one_alarm_together(fleet: Fleet) -> None:
    flood(fleet, NOON - 5 * MINUTE)
    cycle(fleet)
    kinds = [alarm.kind for alarm in opened(fleet)]
    assert kinds.count("many_new_agents") == 1
    assert len(kinds) <= 12
    # An honest agent that falls silent has its own, as before.
    fleet.change("UPDATE agents SET last_seen_at = ? WHERE agent_id = ?", NOON - 5 * MINUTE, HONEST[7].agent_id)
    cycle(fleet)
    assert ("agent_silent", HONEST[7].agent_id) in {(alarm.kind, alarm.agent_id) for alarm in opened(fleet)}


@pytest.mark.parametrize("ago", [SECOND, 5 * MINUTE], ids=["reporting", "silent"])
def test_invented_agents_do_not_double_the_page_or_the_list(fleet: Fleet, ago: int) -> None:
    def sizes() -> tuple[int, int]:
        cycle(fleet)
        return len(page(fleet)), len(json.dumps(fleet_json.agents(fleet.store, 30 * SECOND, NOON)))

    before = sizes()
    flood(fleet, NOON - ago)
    after = sizes()
    assert after[0] < 2 * before[0]
    assert after[1] < 2 * before[1]
    # Every honest agent is listed as before.
    assert all(f'id="agent-{sender.agent_id}"' in page(fleet) for sender in HONEST)


def test_agents_that_stay_do_not_make_an_endless_page(fleet: Fleet) -> None:
    for sender in invented(1500):
        fleet.file(report(sender, 1, NOON - 10 * MINUTE))
        fleet.file(report(sender, 2, NOON - SECOND))
    cycle(fleet)
    assert page(fleet).count('id="agent-') == index_page.MOST_AGENTS


def test_closed_alarms_do_not_fill_the_database(fleet: Fleet) -> None:
    fleet.change(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000) "
        "INSERT INTO alarms (kind, agent_id, opened_at, closed_at, last_at, count, detail) "
        "SELECT 'agent_silent', 'agent ' || i, ?, ?, ?, 1, 'x' FROM n",
        NOON - DAY,
        NOON - DAY,
        NOON - DAY,
    )
    cycle(fleet)
    assert fleet.rows("SELECT count(*) FROM alarms")[0][0] <= 20_000
    fleet.change("UPDATE alarms SET closed_at = ? WHERE closed_at IS NOT NULL", NOON - 40 * DAY)
    cycle(fleet)
    assert fleet.rows("SELECT count(*) FROM alarms WHERE closed_at IS NOT NULL") == [(0,)]
