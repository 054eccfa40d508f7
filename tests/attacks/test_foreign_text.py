"""Text of others moves no cursor, forges no log line, and makes no answer too large to be read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kattila_agent.commands import discover, sysinfo
from kattila_agent.commands.discover import FoundAgent, Silent, Survey
from kattila_agent.sampling.measurement import Measurement
from kattila_protocol import verdict
from kattila_protocol.errors import IdentityUnproven, Superseded
from kattila_protocol.report import Interface, Report, Telemetry
from support.agent_folder import PSK, keep_ring
from support.agent_process import running_daemon
from support.manager import REGISTER, now_ms, running_manager
from support.manager_stand_in import REGISTER as REGISTRATION
from support.manager_stand_in import UPDATES, Answer, Rule, running_stand_in, verdict_on
from support.reports import node, nonce_of, registering, registration_nonce, report, sealed
from support.victim import AGENT, running_victim
from support.waiting import wait_for
from support.world.network import MANAGER, Request
from support.world.node import INTERVAL_SECONDS
from support.world.world import World
from support.world.wsgi import Answer as WorldAnswer

# Clear the screen, ring the bell, forge a line, turn the direction, use the 8-bit form of ESC [, hide in tags.
HOSTILE = "evil\x1b[2J\x07\r\n2026-01-01 12:00:00,000 INFO nothing to see\u202e\x9b31m\u2028\x00\U000e0041"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
DATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:,]{12} [A-Z]+ ")
MOST_BYTES = 16 * 1024


def assert_plain(text: str) -> None:
    """Check that a text has no control characters, and that it is not the forged line."""
    assert CONTROL.findall(text) == []
    assert not [line for line in text.splitlines() if line.startswith("2026-01-01")]


def assert_plain_log(log: str) -> None:
    """Check that a log has only whole lines of the program itself, and no endless one."""
    assert_plain(log)
    assert [line for line in log.splitlines() if not DATED.match(line) or len(line) > 4100] == []


def named(sender_report: Report, hostname: str) -> Report:
    """Return a report of a machine with another name."""
    assert sender_report.telemetry.system is not None
    system = replace(sender_report.telemetry.system, hostname=hostname)
    return replace(sender_report, telemetry=replace(sender_report.telemetry, system=system))


def test_the_name_of_an_ids_holder_does_not_reach_another_log_raw(tmp_path: Path) -> None:
    with running_victim(tmp_path) as victim:
        holder = node(1)
        assert victim.manager.post(sealed(named(report(holder, 1, now_ms()), HOSTILE))).status == 200
        with victim.running() as daemon:
            daemon.wait_for_log("identity_unproven")
            assert AGENT in daemon.log
            assert_plain_log(daemon.log)


@pytest.mark.parametrize("name", ["x" * 300_000, "\U0001f600" * 300_000, "\x1b" * 300_000])
def test_a_long_name_makes_no_verdict_too_large_to_be_read(tmp_path: Path, name: str) -> None:
    holder, clone = node(1), node(1).cloned()
    with running_manager(tmp_path, workers=1) as manager:
        manager.post(sealed(report(holder, 1, now_ms())))
        # As an older manager stored it, before names had a bound.
        with manager.changing() as connection:
            connection.execute("UPDATE agents SET hostname = ?", (name,))
        answer = manager.post(sealed(report(clone, 2, now_ms())))
        given = answer.verdict(nonce_of(clone, 2, 2))
        registered = manager.post(registering(clone, now_ms()), REGISTER)
        assert registered.verdict(registration_nonce(clone)).outcome == IdentityUnproven.kind
    assert given.outcome == IdentityUnproven.kind
    assert max(len(answer.body), len(registered.body)) <= MOST_BYTES
    assert_plain(given.detail)


def lying(outcome: str, detail: str) -> Rule:
    """Return a rule that refuses with a signed verdict, as a relay with the PSK can."""

    def lie(request: Any) -> Answer:
        given = verdict_on(request, outcome, detail=detail)
        return 409, verdict.seal(given, request.key)

    return lie


@pytest.mark.parametrize("detail", [HOSTILE, "x" * 2000])
@pytest.mark.parametrize("outcome", [Superseded.kind, HOSTILE[:50]])
def test_a_signed_refusal_forges_no_log_line(tmp_path: Path, outcome: str, detail: str) -> None:
    keep_ring(tmp_path, PSK)
    dns = {"DNS": "kattila.example.org", "DNS_SERVER": "127.0.0.1:9"}
    with running_stand_in(PSK) as manager:
        manager.next_answer(REGISTRATION, lying(outcome, detail))
        manager.next_answer(UPDATES, lying(outcome, detail), lying(outcome, detail))
        with running_daemon(tmp_path, **dns, MANAGER_URL=manager.url, INTERVAL="1") as daemon:
            manager.wait_for_reports(4)
            wait_for(lambda: "refuses the reports" in daemon.log, lambda: daemon.log)
            assert_plain_log(daemon.log)
            assert max(map(len, daemon.log.splitlines())) < 1000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, 2)
    try:
        made.start_all()
        made.run(5 * INTERVAL_SECONDS)
        yield made
    finally:
        made.close()


def test_an_unsigned_refusal_of_a_relay_forges_no_log_line(world: World, caplog: pytest.LogCaptureFixture) -> None:
    victim, relay = world.nodes
    kind = HOSTILE.encode("unicode_escape").decode().replace("\\x", "\\u00").replace("\\U000e0041", "")
    honest = world.network.hosts[relay.address]

    def lie(request: Request) -> WorldAnswer:
        if request.method == "GET":
            return honest(request)
        return WorldAnswer(502, {}, b'{"type":"urn:kattila:problem:%s"}' % (kind.encode() + b"x" * 9000))

    world.network.hosts[relay.address] = lie
    world.network.cut.add((victim.address, MANAGER))
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        world.run(2 * INTERVAL_SECONDS)
    lines = [line for line in caplog.messages if "evil" in line]
    assert lines and max(map(len, lines)) < 1000
    assert_plain("".join(lines))
    assert "\n" not in "".join(lines)


def test_discover_shows_no_endless_name(tmp_path: Path) -> None:
    found = FoundAgent("198.51.100.1", AGENT, HOSTILE + "x" * 200_000, 1, 1.0, AGENT, HOSTILE + "y" * 200_000)
    survey = Survey(AGENT, "here", (found,), (Silent("198.51.100.2", HOSTILE + "z" * 200_000),), ())
    table = discover.as_table(survey)
    assert_plain(table)
    assert len(table.splitlines()) == 4
    assert len(table) < 2000


def test_sysinfo_shows_names_of_containers_as_text() -> None:
    name = "a\x9b2J\u202e\x7f"
    link = Interface(1, name, None, (), "UP", 1500, None, ())
    printed = sysinfo.as_json(Measurement(Telemetry(None, (link,)), 0, "00000000-0000-4000-8000-000000000000", 0))
    assert_plain(printed)
    assert "a\\u009b2J\\u202e\\u007f" in printed
