"""The publishing cycle on a real database and folder, at given times."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from kattila_manager.publishing.publisher import CycleResult
from kattila_manager.store.ingest import registry
from kattila_protocol.report import Interface
from support.fleet import DAY, MINUTE, NOON, SECOND, Fleet, damage
from support.publisher import ONE, TWO, cycle, listen, opened, page, publisher
from support.reports import report

# --- Alarms and the page


def test_a_healthy_fleet_has_a_page_and_no_alarm(fleet: Fleet) -> None:
    assert cycle(fleet) == CycleResult(agents=2, pages=1)
    assert "All 2 agents report." in page(fleet)
    assert opened(fleet) == ()


def test_a_silence_is_shown_in_its_first_cycle_and_ends(fleet: Fleet) -> None:
    later = NOON + 5 * MINUTE
    listen(fleet, later)
    fleet.file(report(ONE, 2, later))
    assert cycle(fleet, later).opened == 1
    [silent] = opened(fleet)
    assert (silent.kind, silent.agent_id, silent.opened_at) == ("agent_silent", TWO.agent_id, NOON - SECOND)
    assert "1 of 2 agents is silent." in page(fleet)
    assert "no report since 2026-01-31 11:59:59 UTC" in page(fleet)
    fleet.file(report(TWO, 2, later))
    assert cycle(fleet, later + SECOND).closed == 1
    assert opened(fleet) == ()
    assert "Closed within 24 hours" in page(fleet)


def test_late_samples_amend_the_alarm_of_a_silence(fleet: Fleet) -> None:
    back = NOON + 10 * MINUTE
    listen(fleet, back + MINUTE)
    cycle(fleet, NOON + 5 * MINUTE)
    assert {alarm.agent_id for alarm in opened(fleet)} == {ONE.agent_id, TWO.agent_id}
    for sender in (ONE, TWO):
        fleet.file(report(sender, 21, back))
    cycle(fleet, back)
    assert opened(fleet) == ()
    for count in (3, 20):
        for sample in range(2, 2 + count):
            measured_at = NOON + (sample - 1) * 29 * SECOND
            fleet.file(report(ONE, sample, back, tick=100 * count + sample, sampled_at=measured_at))
        cycle(fleet, back + SECOND)
        details = dict(fleet.rows("SELECT agent_id, detail FROM alarms"))
        assert details[ONE.agent_id] == (
            "no report since 2026-01-31 11:59:59 UTC until 2026-01-31 12:10:00 UTC; "
            f"it was cut off but alive: {min(count, 19)} samples arrived late"
        )
        assert details[TWO.agent_id] == "no report since 2026-01-31 11:59:59 UTC; the last one came direct"
    assert "it was cut off but alive: 19 samples arrived late" in page(fleet)
    before = fleet.dump()
    cycle(fleet, back + 2 * SECOND)
    assert fleet.dump() == before


def test_publishing_without_changes_writes_nothing_to_the_database(fleet: Fleet) -> None:
    later = NOON + 5 * MINUTE
    listen(fleet, later)
    fleet.refuse("replay", ONE.agent_id, 3, later)
    first = publisher(fleet)
    assert first.cycle(later, lambda: True).opened == 3
    before = fleet.dump()
    assert first.cycle(later + 5 * SECOND, lambda: True).opened == 0
    assert cycle(fleet, later + 10 * SECOND).opened == 0
    assert fleet.dump() == before


def test_counting_continues_across_restarts_and_quiet_times(fleet: Fleet) -> None:
    now = NOON
    for count, expected in ((3, [3]), (2, [5]), (0, [5])):
        if count:
            fleet.refuse("bad_signature", None, count, now)
        cycle(fleet, now)
        assert [alarm.count for alarm in opened(fleet)] == expected
        now += MINUTE
    now += 20 * MINUTE
    listen(fleet, now)
    for sender in (ONE, TWO):
        fleet.file(report(sender, 2, now))
    assert cycle(fleet, now).closed == 1
    fleet.refuse("bad_signature", None, 4, now + SECOND)
    cycle(fleet, now + SECOND)
    assert [alarm.count for alarm in opened(fleet)] == [4]


def test_a_reset_agent_counts_from_zero(fleet: Fleet) -> None:
    fleet.refuse("replay", ONE.agent_id, 9, NOON)
    cycle(fleet)
    fleet.change("DELETE FROM refusals")
    assert cycle(fleet).closed == 1
    fleet.refuse("replay", ONE.agent_id, 2, NOON)
    cycle(fleet)
    assert [alarm.count for alarm in opened(fleet)] == [2]


def test_several_publishers_at_once_open_an_alarm_once(fleet: Fleet) -> None:
    fleet.refuse("replay", ONE.agent_id, 3, NOON)
    start = threading.Barrier(6)
    failures: list[str] = []

    def publish() -> None:
        mine = publisher(fleet)
        start.wait()
        for _ in range(5):
            failures.extend(mine.cycle(NOON, lambda: True).failures)

    threads = [threading.Thread(target=publish) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(fleet.rows("SELECT * FROM alarms")) == 1
    assert "1 alarm is open." in page(fleet)


def test_a_change_is_logged_once(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fleet.refuse("replay", ONE.agent_id, 3, NOON, detail="tick 7 \x1b[31m")
    mine = publisher(fleet)
    for now in range(NOON, NOON + 30 * SECOND, 5 * SECOND):
        mine.cycle(now, lambda: True)
    [line] = caplog.messages
    assert line.startswith(f"alarm opened: replay, {ONE.hostname} ({ONE.agent_id[:8]}): tick 7 \\u001b[31m;")


# --- Failures


def test_a_failed_rendering_keeps_the_last_page_and_is_logged_once(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "style.css").touch()
    (templates / "index.html").write_text("{{ page.verdict }}")
    mine = publisher(fleet, templates=templates)
    assert mine.cycle(NOON, lambda: True).failures == ()
    (templates / "index.html").write_text("{{ page.nothing }}")
    fleet.refuse("replay", ONE.agent_id, 3, NOON)
    for _ in range(3):
        [failure] = mine.cycle(NOON, lambda: True).failures
        assert "nothing" in failure
    assert page(fleet) == "All 2 agents report."
    # Alarms do not depend on the page.
    assert len(opened(fleet)) == 1
    (templates / "index.html").write_text("{{ page.verdict }} again")
    assert mine.cycle(NOON, lambda: True).failures == ()
    assert page(fleet) == "1 alarm is open. again"
    mine.cycle(NOON, lambda: True)
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "alarm opened",
        "rendering page index.html failed",
        "rendering page index.html works again",
    ]


def test_a_damaged_report_does_not_stop_the_others(fleet: Fleet) -> None:
    [(report_id,)] = fleet.rows("SELECT latest_report_id FROM agents WHERE agent_id = ?", ONE.agent_id)
    damage(fleet, report_id)
    assert cycle(fleet).failures == ()
    assert "The newest report of 1 agent cannot be read" in page(fleet)
    assert ONE.hostname in page(fleet)


def test_an_unreadable_database_is_a_failure_but_not_a_crash(fleet: Fleet) -> None:
    mine = publisher(fleet)
    mine.cycle(NOON, lambda: True)
    fleet.change("ALTER TABLE agents RENAME TO gone")
    [failure, *_] = mine.cycle(NOON, lambda: True).failures
    assert "no such table: agents" in failure
    fleet.change("ALTER TABLE gone RENAME TO agents")
    assert mine.cycle(NOON, lambda: True).failures == ()
    assert "All 2 agents report." in page(fleet)


# --- Interfaces


def _interfaces(fleet: Fleet) -> list[tuple[str, int]]:
    return fleet.rows("SELECT name, report_id FROM agent_interfaces JOIN agents ON ref = agent_ref ORDER BY ref, name")


def test_interfaces_are_those_of_the_newest_sample(fleet: Fleet) -> None:
    cycle(fleet)
    assert _interfaces(fleet) == [("eth0", 1), ("lo", 1), ("eth0", 2), ("lo", 2)]
    told = report(ONE, 2, NOON)
    wg0 = Interface(9, "wg0", "wireguard", ("UP",), "UNKNOWN", 1420, None, ("192.0.2.9/32", "2001:db8::9/128"))
    fleet.file(replace(told, telemetry=replace(told.telemetry, interfaces=(wg0, wg0))))
    cycle(fleet)
    assert _interfaces(fleet) == [("wg0", 3), ("eth0", 2), ("lo", 2)]
    [row] = fleet.rows("SELECT kind, address, addresses, operstate, mtu FROM agent_interfaces WHERE name = 'wg0'")
    assert row == ("wireguard", None, "192.0.2.9/32,2001:db8::9/128", "UNKNOWN", 1420)


def test_unchanged_interfaces_are_not_written_again(fleet: Fleet) -> None:
    cycle(fleet)
    fleet.file(report(ONE, 2, NOON))
    cycle(fleet)
    assert _interfaces(fleet) == [("eth0", 1), ("lo", 1), ("eth0", 2), ("lo", 2)]


def test_a_reset_agents_interfaces_are_written_again(fleet: Fleet) -> None:
    cycle(fleet)
    fleet.store.write(lambda connection: registry.reset(connection, ONE.agent_id, NOON))
    assert _interfaces(fleet) == [("eth0", 2), ("lo", 2)]
    cycle(fleet)
    assert _interfaces(fleet) == [("eth0", 1), ("lo", 1), ("eth0", 2), ("lo", 2)]


def test_an_agent_without_interfaces_has_no_rows(fleet: Fleet) -> None:
    cycle(fleet)
    told = report(ONE, 2, NOON)
    fleet.file(replace(told, telemetry=replace(told.telemetry, interfaces=())))
    cycle(fleet)
    assert _interfaces(fleet) == [("eth0", 2), ("lo", 2)]
    before = fleet.dump()
    cycle(fleet)
    assert fleet.dump() == before


def test_a_late_sample_changes_no_interfaces(fleet: Fleet) -> None:
    fleet.file(report(ONE, 5, NOON))
    cycle(fleet)
    before = _interfaces(fleet)
    late = report(ONE, 3, NOON, tick=6)
    fleet.file(replace(late, telemetry=replace(late.telemetry, interfaces=())))
    cycle(fleet)
    assert _interfaces(fleet) == before


# --- Edges


def _edges(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT kind, a_ref, b_ref, state, first_seen_at, last_seen_at FROM topology_edges ORDER BY id")


def test_an_edge_is_up_then_unused_then_forgotten(fleet: Fleet) -> None:
    listen(fleet, NOON + MINUTE)
    cycle(fleet)
    assert _edges(fleet) == []
    fleet.file(report(TWO, 2, NOON), relays=(ONE.agent_id,))
    cycle(fleet)
    assert _edges(fleet) == [("relay", 1, 2, "up", NOON, NOON)]
    assert fleet.rows("SELECT evidence FROM topology_edges") == [
        (f'{{"count":1,"reports":[{{"agent_id":"{TWO.agent_id}","sample":2}}]}}',)
    ]
    fleet.file(report(TWO, 3, NOON + 30 * SECOND), relays=(ONE.agent_id,))
    cycle(fleet, NOON + 30 * SECOND)
    assert _edges(fleet) == [("relay", 1, 2, "up", NOON, NOON + 30 * SECOND)]
    fleet.file(report(TWO, 4, NOON + MINUTE))
    cycle(fleet, NOON + MINUTE)
    assert _edges(fleet) == [("relay", 1, 2, "unused", NOON, NOON + 30 * SECOND)]
    cycle(fleet, NOON + 30 * DAY + 30 * SECOND)
    assert len(_edges(fleet)) == 1
    cycle(fleet, NOON + 30 * DAY + 30 * SECOND + 1)
    assert _edges(fleet) == []


def test_an_edge_used_again_keeps_its_first_seen_time(fleet: Fleet) -> None:
    for sample, relays in ((2, (ONE.agent_id,)), (3, ()), (4, (ONE.agent_id,))):
        fleet.file(report(TWO, sample, NOON + sample * SECOND), relays=relays)
        cycle(fleet, NOON + sample * SECOND)
    assert _edges(fleet) == [("relay", 1, 2, "up", NOON + 2 * SECOND, NOON + 4 * SECOND)]


def test_unchanged_edges_are_not_written_again(fleet: Fleet) -> None:
    fleet.file(report(TWO, 2, NOON), relays=(ONE.agent_id,))
    cycle(fleet)
    before = fleet.dump()
    cycle(fleet, NOON + 5 * SECOND)
    assert fleet.dump() == before


def test_edges_of_other_kinds_do_not_change(fleet: Fleet) -> None:
    fleet.change("INSERT INTO topology_edges VALUES (7, 'wireguard', 1, 2, 'up', '{}', 0, 0)")
    cycle(fleet, NOON + 400 * DAY)
    assert _edges(fleet) == [("wireguard", 1, 2, "up", 0, 0)]
