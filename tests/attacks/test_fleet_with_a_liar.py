"""An honest fleet of 20 agents beside a liar with the PSK, who tries everything at once.

The fleet runs alone at first. Speeds, times and sizes beside the liar are compared with those.
"""

from __future__ import annotations

from statistics import median

import pytest

from support.counts import IS_FULL, SIEGE_CONNECTIONS, SIEGE_SECONDS
from support.reports import PSK
from support.siege import scene
from support.siege.honest import SIMULATED
from support.siege.outcome import LEAST, Outcome

ALONE_SECONDS = 60 if IS_FULL else 12
# How much slower honest answers may be. A short run, perhaps beside other tests, has few answers.
SLOWER = 3 if IS_FULL else 20
# An alarm may take this many times as long as without the liar, and this much more.
LATER, AND_SECONDS = 3, 3 * scene.REPORT_INTERVAL_SECONDS
CONTROLS = [bytes([code]) for code in range(32) if code not in b"\t\n"] + ["\x9b".encode(), "\u202e".encode()]

# granian takes a head with bare line feeds, or with two Host headers; such a request from this machine is answered.
OPEN = "b'GET /status/agents HTTP/1.1"


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    outcome = scene.besiege(tmp_path_factory.mktemp("siege"), ALONE_SECONDS, SIEGE_SECONDS, SIEGE_CONNECTIONS)
    print(outcome.summary())  # pytest shows it if a test fails
    return outcome


def test_the_liar_sends_every_lie(siege: Outcome) -> None:
    assert siege.liar.missing == {}
    assert set(siege.liar.sent) == set(LEAST)


def test_no_honest_report_is_lost(siege: Outcome) -> None:
    assert len(siege.measured) > len(SIMULATED) * ALONE_SECONDS / 2
    assert sorted(siege.lost) == []
    assert siege.dropped == 0


def test_no_honest_report_is_stored_twice(siege: Outcome) -> None:
    assert {label: count for label, count in siege.stored.items() if count > 1} == {}


def test_no_honest_agent_stops(siege: Outcome) -> None:
    assert siege.crashes == {}
    alone, besieged = siege.alone, siege.besieged
    last_third = besieged.ended - besieged.seconds / 3
    for number in SIMULATED:
        before = siege.delivered(number, alone.began, alone.ended) / alone.seconds
        now = siege.delivered(number, last_third, besieged.ended) / (besieged.ended - last_third)
        assert now > before / 3, f"agent {number} delivered {now:.2f} reports in a second, and {before:.2f} alone"


def test_no_agent_has_to_wait(siege: Outcome) -> None:
    # Neither because its numbers were taken, nor because it relays reports of the liar.
    assert max(siege.besieged.waiting.values()) < 3 + siege.besieged.seconds / scene.INTERVAL_SECONDS / 3


def test_honest_alarms_open_and_close_in_time(siege: Outcome) -> None:
    alone, besieged = siege.alone, siege.besieged
    assert alone.opened_after is not None
    assert alone.closed_after is not None
    assert besieged.opened_after is not None, "the alarm of an agent that was stopped never opened"
    assert besieged.closed_after is not None, "the alarm of an agent that was started again never closed"
    assert besieged.opened_after <= LATER * alone.opened_after + AND_SECONDS
    assert besieged.closed_after <= LATER * alone.closed_after + AND_SECONDS


def test_honest_answers_are_not_much_slower(siege: Outcome) -> None:
    alone, besieged = siege.answer_ms(siege.alone), siege.answer_ms(siege.besieged)
    assert median(besieged) <= SLOWER * median(alone)


def test_pages_and_lists_stay_under_twice_their_size(siege: Outcome) -> None:
    alone, besieged = siege.alone.bytes, siege.besieged.bytes
    assert besieged["page"] < 2 * alone["page"]
    assert besieged["agents"] < 2 * alone["agents"]
    # Alone there is one alarm. Beside the liar there is one for each agent and kind of attack, however often it comes.
    assert besieged["alarms"] < 2 * alone["agents"]


def test_readers_are_answered(siege: Outcome) -> None:
    besieged = siege.besieged
    assert len(besieged.read_ms) - besieged.failed_reads > besieged.failed_reads


def test_agents_answer_other_agents(siege: Outcome) -> None:
    assert siege.besieged.probes[True] > siege.besieged.probes[False]


def test_the_publisher_fails_in_no_step(siege: Outcome) -> None:
    assert siege.failed_steps == []


def test_the_liar_reads_nothing(siege: Outcome) -> None:
    assert [leak for leak in siege.liar.leaks if not leak.startswith(OPEN)] == []


def test_logs_have_no_control_characters_and_no_secret(siege: Outcome) -> None:
    found = {(name, code) for name, log in siege.logs.items() for code in CONTROLS if code in log}
    assert found == set()
    assert [name for name, log in siege.logs.items() if PSK in log] == []


def test_logs_have_no_line_of_the_liar(siege: Outcome) -> None:
    lines = [line for log in siege.logs.values() for line in log.decode(errors="replace").splitlines()]
    assert [line for line in lines if line.startswith("2026-01-31 12:00:00 INFO nothing happened")] == []
