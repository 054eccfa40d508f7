"""What the registry keeps of an agent's newest report: its report interval, and where it came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kattila_manager.store.read import queries
from kattila_protocol.report import Report
from support.fleet import HOUR, NOON, SECOND, Fleet, fleet_in
from support.reports import node, report

ONE, RELAY = node(1), node(2)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as made:
        yield made


def every(seconds: int | None, said: Report) -> Report:
    return replace(said, telemetry=replace(said.telemetry, interval_seconds=seconds))


def known(fleet: Fleet) -> tuple[int | None, str | None]:
    (agent,) = fleet.store.read(queries.all_agents)
    return agent.interval_seconds, agent.source_address


def test_interval_and_address_are_those_of_the_newest_report(fleet: Fleet) -> None:
    fleet.file(every(60, report(ONE, 1, NOON)), source="192.0.2.1")
    assert known(fleet) == (60, "192.0.2.1")
    fleet.file(every(10, report(ONE, 3, NOON + SECOND)), source="2001:db8::1")
    assert known(fleet) == (10, "2001:db8::1")
    # A late sample is a new message, but not the newest measurement.
    late = report(ONE, 2, NOON + 2 * SECOND, tick=4, sampled_at=NOON - HOUR)
    fleet.file(every(60, late), source="192.0.2.2")
    assert known(fleet) == (10, "192.0.2.2")


def test_a_relayed_report_keeps_the_address_of_the_last_direct_one(fleet: Fleet) -> None:
    fleet.file(report(ONE, 1, NOON), source="192.0.2.1")
    fleet.file(report(ONE, 2, NOON + SECOND), relays=(RELAY.agent_id,), source="192.0.2.7")
    assert known(fleet) == (None, "192.0.2.1")


@pytest.mark.parametrize("source", ["127.0.0.1", "::1", "::ffff:127.0.0.1", ""])
def test_the_address_of_a_proxy_on_the_managers_machine_is_not_the_agents(fleet: Fleet, source: str) -> None:
    fleet.file(report(ONE, 1, NOON), source=source)
    assert known(fleet) == (None, None)


def test_an_older_agent_does_not_report_its_interval(fleet: Fleet) -> None:
    fleet.file(every(60, report(ONE, 1, NOON)))
    fleet.file(every(None, report(ONE, 2, NOON + SECOND)))
    assert known(fleet)[0] is None
