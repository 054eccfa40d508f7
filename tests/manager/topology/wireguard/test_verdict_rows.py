"""The 70 rows of the design's table, each with its state, side to fix, alarm and text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from kattila_manager.topology.wireguard.ends import Claim, End, Standing
from kattila_manager.topology.wireguard.explanations import commands, explain, explain_note
from kattila_manager.topology.wireguard.reasons import Note
from kattila_manager.topology.wireguard.states import Verdict, alarm_kind
from kattila_manager.topology.wireguard.verdicts import judge, judge_external
from kattila_manager.wording import moment
from support.fleet import HOUR, MINUTE, SECOND
from support.tunnel_ends import A_AT, B_AT, STEP, a, absent, b, samples

ALARMS = {
    "D": "tunnel_down",
    "1": "tunnel_one_sided",
    "N": "tunnel_never",
    "X": "external_down",
    "K": "key_claimed_twice",
    "": None,
}


class Row(NamedTuple):
    """A row of the table: what the two ends show, and the expected verdict."""

    number: int
    ends: tuple[End, ...]
    state: str
    fix: str
    alarm: str
    text: str


HANDSHAKE = "A and B completed a handshake {} ago. That proves both directions."
DUE = "The session is due for renewal. It is not late until {} s after the last handshake."
NO_ANSWER_EITHER_WAY = "Nothing arrives in either direction."
UNTRIED = "{0}'s keepalives and handshake attempts do not reach {1}. The direction {1}→{0} was not tried."
SHORT_RUN = "Monitoring just restarted and has too little evidence for a new verdict, so the last state stays."
NOT_ALLOWED = "Handshakes succeed, but B discards A's packets: their source is not in B's AllowedIPs for A."
PSK_ON_ONE_SIDE = "One side has a preshared key and the other has none, so no handshake completes."
IDLE = "Nothing was sent. Without a keepalive, a session is renewed only when there is something to send."
THEN = A_AT - 2 * HOUR

# Before a reboot or a change of the clock, all was healthy.
_HEALTHY_A = samples("+", "+", 700, at=A_AT - 10 * MINUTE)
_HEALTHY_B = samples("+", "+", 700, at=B_AT - 10 * MINUTE)
_YOUNG_A = samples("+", "+", 90, at=A_AT - MINUTE)
_YOUNG_B = samples("+", "+", 90, at=B_AT - MINUTE)
_REBOOTED: dict[str, Any] = {"boot_id": "second boot", "interface_index": 7}

RENEWAL_AND_LOSS = (
    Row(1, (a("+", "+", 20), b("+", "+", 20)), "up", "", "", HANDSHAKE.format("20 s")),
    Row(
        2,
        (a("+", "+", 130, 25), b("+", "+", 130)),
        "up",
        "",
        "",
        HANDSHAKE.format("2 min 10 s") + " The initiator renews the session when it next sends.",
    ),
    Row(
        3,
        (a("=", "+", 178), b("+", "=", 178, 25)),
        "up",
        "",
        "",
        "The session is 2 min 58 s old. A renews it on the next packet received after 165 s, or B does at 180 s.",
    ),
    Row(
        4,
        (a("=", "+=", 183, step=20 * SECOND), b("+", "=", 183, 25, step=20 * SECOND)),
        "suspect",
        "",
        "",
        DUE.format(220),
    ),
    Row(5, (a("=", "+=", 188), b("+", "=", 188, 60)), "suspect", "", "", DUE.format(255)),
    Row(6, (a("=", "+=", 240), b("+", "=", 240, 60)), "suspect", "", "", DUE.format(255)),
    # The mirror of row 8, so the text is that of row 8: it names the direction that was not tried.
    Row(7, (a("=", "=", 260), b("+", "=", 260, 60)), "down", "", "D", UNTRIED.format("B", "A")),
    Row(8, (a("+", "=", 221, 25), b("=", "=", 221)), "down", "", "D", UNTRIED.format("A", "B")),
    Row(9, (a("+", "=", 221, 25), b("+", "=", 221, 25)), "down", "", "D", NO_ANSWER_EITHER_WAY),
    Row(10, (a("+", "+===", 195, 25), b("+===", "+===", 195)), "down", "", "D", UNTRIED.format("A", "B")),
    Row(
        11,
        (a("+", "+==", 195, 25, step=25 * SECOND), b("=", "+==", 195, step=25 * SECOND)),
        "suspect",
        "",
        "",
        "Renewal is due and nothing was received for 50 s. One keepalive may be lost or late.",
    ),
    Row(
        12,
        (a("+", "+", 60, 25, step=15 * SECOND), b("+", "+===", 60, step=15 * SECOND)),
        "suspect",
        "b",
        "",
        "Two of A's packets in a row did not reach B.",
    ),
    Row(
        13,
        (a("+", "+====", 100, 25, step=20 * SECOND), b("=", "+====", 100, step=20 * SECOND)),
        "down",
        "",
        "D",
        "Three of A's packets in a row did not reach B, although the session is young.",
    ),
    Row(
        14,
        (a("+", "+====", 100, step=20 * SECOND), b("+", "+====", 100, step=20 * SECOND)),
        "down",
        "",
        "D",
        "Both sides send and neither receives.",
    ),
)

ANSWER_LOST = (
    "{1}'s initiations reach {0} and {0} answers, but no answer reaches {1}. "
    "Check {1}'s input filter and the path in front of {1}."
)
PSK: dict[str, Any] = {"has_preshared_key": True}
ONE_DIRECTION = (
    Row(15, (a("+", "+", 240), b("+", "=", 240, 25)), "one_way", "b", "D", ANSWER_LOST.format("A", "B")),
    Row(16, (a("+", "=", 240, 25), b("+", "+", 240)), "one_way", "a", "D", ANSWER_LOST.format("B", "A")),
    Row(17, (a("+", "=", 240, 25, **PSK), b("+", "+", 240)), "refused", "ab", "D", PSK_ON_ONE_SIDE),
    Row(
        18,
        (a("+", "=", 240, 25, **PSK), b("+", "+", 240, **PSK)),
        "one_way",
        "a",
        "D",
        "B's answers do not reach A, or the preshared keys differ. The counters look the same in both cases.",
    ),
    Row(
        19,
        (a("+", "+", 400, 25, **PSK), b("+", "+", 400, **PSK)),
        "refused",
        "ab",
        "D",
        "Packets arrive in both directions, but no handshake completes: the preshared keys differ.",
    ),
)

NEVER = (
    Row(20, (a("+", "=", None, 25, **PSK), b("=", "+")), "refused", "ab", "D", PSK_ON_ONE_SIDE),
    Row(
        21,
        (a("=++++", "=", None, 25), b("=", "=")),
        "never",
        "",
        "N",
        "A has tried for 120 s and nothing arrives at B. The two sides have never completed a handshake.",
    ),
    Row(
        22,
        (a("+", "=", None, 25), b("+", "+")),
        "never",
        "a",
        "N",
        "They have never completed a handshake: B's answers do not reach A, or the preshared keys differ. "
        "The counters look the same.",
    ),
    Row(
        23,
        (a("=", "="), b("=", "=")),
        "never",
        "",
        "",
        "No handshake yet. Neither side has tried: no traffic and no keepalive.",
    ),
    Row(
        24,
        (a("=", "=", None, 25, endpoint=None), b("=", "=", None, 25, endpoint=None)),
        "never",
        "ab",
        "",
        "No handshake yet. Neither side knows the other's endpoint.",
    ),
    Row(
        25,
        (
            a("+", "=", None, 25, before=_HEALTHY_A, count=15, **_REBOOTED),
            b("=", "=", None, before=_HEALTHY_B, count=15, **_REBOOTED),
        ),
        "down",
        "",
        "D",
        f"No handshake since both sides restarted. The last one before that was at {moment(A_AT - 700 * SECOND)}.",
    ),
    Row(
        25,
        (
            a("=", "=", None, before=_HEALTHY_A, count=15, **_REBOOTED),
            b("=", "=", None, before=_HEALTHY_B, count=15, **_REBOOTED),
        ),
        "idle",
        "",
        "",
        f"No handshake since both sides restarted. The last one before that was at {moment(A_AT - 700 * SECOND)}.",
    ),
)

_THEN_QUIET = "++" + 120 * "="
NO_KEEPALIVE = (
    Row(26, (a("=", "=", 3600), b("=", "=", 3600)), "idle", "", "", IDLE),
    # The path is cut, which nothing shows until something is sent.
    Row(27, (a("=", "=", 3600), b("=", "=", 3600)), "idle", "", "", IDLE),
    Row(28, (a("=+", "=", 200), b("=", "=", 200)), "suspect", "", "", "A is trying to reach B."),
    Row(29, (a("=+++", "=", 400), b("=", "=", 400)), "down", "", "D", "A tried to reach B and nothing arrived."),
    Row(
        30,
        (a("=+" + _THEN_QUIET, "=", 7200, count=140), b("=", "=", 7200, count=140)),
        "down",
        "",
        "D",
        "The last attempts failed, and nothing shows that the tunnel works again.",
    ),
)

INTERFACE_DOWN = "A's interface wg0 is down."
INTERFACES = (
    Row(31, (a("=", "=", 240, 25, is_up=False), b("=", "=", 240)), "down", "a", "D", INTERFACE_DOWN),
    Row(31, (a("=", "=", None, 25, is_up=False), b("=", "=")), "never", "a", "", INTERFACE_DOWN),
    # IFF_UP counts, and the operstate is not even part of an end.
    Row(32, (a("+", "+", 20, is_up=True), b("+", "+", 20)), "up", "", "", HANDSHAKE.format("20 s")),
    Row(
        33,
        (a("=", "=", 3600, 25, endpoint=None), b("=", "=", 3600)),
        "idle",
        "",
        "",
        "Nothing was sent. A has a keepalive but knows no endpoint, so neither side has to keep the session alive.",
    ),
    Row(
        34,
        (a("+===", "+===", 240, 25), b("+===", "+===", 240)),
        "down",
        "a",
        "D",
        "A does not even send: it has no route to the endpoint, or (wireguard-go) its own output filter refuses the "
        "packets.",
    ),
    # The counters cannot distinguish A's own output filter from the path, so no side is named.
    Row(35, (a("+", "=", 240, 25), b("=", "=", 240)), "down", "", "D", UNTRIED.format("A", "B")),
)

_SILENT_A: dict[str, Any] = {"standing": Standing.SILENT, "at": A_AT - 5 * MINUTE}
UNREADABLE = (
    "A's WireGuard data could not be read or is incomplete. The peer is unknown, never absent; "
    "the last known facts are shown."
)
PRESENCE = (
    Row(
        36,
        (a("+", "+", 400, 25, **_SILENT_A), b("+", "+", 100)),
        "up",
        "",
        "",
        "A is silent. B reports a handshake 1 min 40 s ago, which proves both directions.",
    ),
    Row(
        37,
        (a("+", "+", 400, 25, **_SILENT_A), b("+", "=", 400)),
        "down",
        "",
        "D",
        "B gets no answer from A, and A is silent. This tunnel is affected.",
    ),
    Row(
        38,
        (a("+", "+", 400, 25, **_SILENT_A), b("+", "+", 400, standing=Standing.SILENT)),
        "unknown",
        "",
        "",
        f"A and B are both silent. Nothing is known since {moment(B_AT)}.",
    ),
    Row(
        39,
        (a("+", "+", 190, 25), b("+", "+==", 190, 25, at=A_AT + 40 * SECOND)),
        "suspect",
        "",
        "",
        "Renewal is overdue by B's report. A has not reported since; it will report or count as silent within 90 s.",
    ),
    Row(
        40,
        (a("+", "+", 100, standing=Standing.UNREADABLE), b("+", "+", 100, standing=Standing.SILENT)),
        "unknown",
        "a",
        "",
        UNREADABLE,
    ),
    Row(40, (absent("a", standing=Standing.UNREADABLE), b("+", "+", 100)), "unknown", "a", "", UNREADABLE),
)

ONE_SIDED = (
    Row(
        41,
        (a("+", "=", 400, 25), absent()),
        "one_sided",
        "b",
        "1",
        "A has B as a peer, but B's wg0 does not have A. Add A on B, or remove B on A.",
    ),
    # A rollout in progress looks the same.
    Row(42, (a("+", "=", 400, 25), absent(is_first_absence=True)), "unchanged", "", "", ""),
    Row(42, (a("+", "=", 400, 25, listed_at=B_AT), absent()), "unchanged", "", "", ""),
    Row(
        43,
        (a("+", "=", 400, 25), absent(standing=Standing.SILENT)),
        "unknown",
        "",
        "",
        "B did not list A in its last report, but that report is stale and B may have changed since.",
    ),
    Row(
        44,
        (a("+", "=", 400, 25), absent(key_ended_at=THEN, current_key="KEY")),
        "one_sided",
        "a",
        "1",
        f"A uses B's former key, which changed at {moment(THEN)}. B's key is now KEY.",
    ),
    Row(
        45,
        (a("+", "=", 400, 25, current_key="KEY"), absent(former_key_ended_at=THEN)),
        "one_sided",
        "b",
        "1",
        f"B uses A's former key, which changed at {moment(THEN)}. A's key is now KEY.",
    ),
    Row(
        46,
        (a("+", "+", 40, 25), absent()),
        "one_sided",
        "b",
        "1",
        "B no longer has A as a peer. The last handshake is older than that, and B now refuses A's packets.",
    ),
)

RESTARTS = (
    Row(
        47,
        (b("+", "+", None, before=_YOUNG_B, count=2, boot_id="second"), a("+", "+", 30)),
        "up",
        "",
        "",
        "B rebooted and its counters restarted. A handshake that A knows counts for both sides.",
    ),
    Row(
        48,
        (a("+", "+", None, before=_YOUNG_A, count=2, interface_index=6), b("+", "+", 90)),
        "up",
        "",
        "",
        "A's interface was recreated. A handshake that B knows counts for both sides.",
    ),
    Row(
        49,
        (a("=", "=", 90, before=_YOUNG_A, count=2, clock_step=HOUR), b("=", "=", 90)),
        "up",
        "",
        "",
        "A's clock jumped forward. The last known handshake still counts: without a byte received there was no new "
        "handshake.",
    ),
    Row(
        50,
        (a("+", "+", 90, before=_YOUNG_A, count=2, clock_step=-HOUR), b("+", "+", 90)),
        "up",
        "",
        "",
        "A's clock jumped back. The last known handshake still counts, at its known time.",
    ),
    Row(
        51,
        (a("+", "=", 700, 25, before=_HEALTHY_A, clock_step=-HOUR), b("=", "=", 700)),
        "down",
        "a",
        "D",
        "A's clock went back, so B refuses A's handshakes as older than the last one. Set A's clock.",
    ),
    Row(52, (a("+", "+", 20, clock_ahead=8 * MINUTE), b("+", "+", 20)), "up", "", "", HANDSHAKE.format("20 s")),
    Row(
        53,
        (a("+", "+", 60, 25, before=samples("+", "+", at=A_AT - 4 * STEP), count=1), b("+", "+", 60)),
        "up",
        "",
        "",
        HANDSHAKE.format("1 min"),
    ),
    Row(
        54,
        (a("+", "+", 100, standing=Standing.LATE), b("+", "+", 100)),
        "up",
        "",
        "",
        "A counts as silent until a report arrives in order. B reports a handshake 1 min 40 s ago, which proves both "
        "directions.",
    ),
)

LOSS = (
    Row(55, (a("+", "+=", 100, 25), b("+", "+=", 100)), "up", "", "", HANDSHAKE.format("1 min 40 s")),
    Row(
        56,
        (a("+", "+", 60, 25, step=15 * SECOND), b("+", "+===", 60, step=15 * SECOND)),
        "suspect",
        "b",
        "",
        "Two of A's packets in a row did not reach B.",
    ),
    Row(57, (a("+", "+", 20), b("+", "+=", 20)), "up", "", "", HANDSHAKE.format("20 s")),
    Row(58, (a("+", "+", 20), b("+", "+", 20)), "up", "", "", HANDSHAKE.format("20 s")),
    Row(59, (a("+", "=", 20), b("=", "+=", 20)), "up", "", "", HANDSHAKE.format("20 s")),
)

CLAIMS = (
    Row(
        60,
        (a("+", "+", 20, claim=Claim.CONTESTED), b("+", "+", 20)),
        "unknown",
        "ab",
        "K",
        "Two agents use this key: a cloned machine, or a failover pair whose standby is not down.",
    ),
    Row(61, (a("+", "+", 20, claim=Claim.STANDBY), b("+", "+", 20)), "up", "", "", HANDSHAKE.format("20 s")),
    Row(
        62,
        (a("+", "+", 20), b("+", "+", 20, claim=Claim.SAME_MACHINE)),
        "unknown",
        "",
        "",
        "Two agents run on one machine and report the same key.",
    ),
    # Row 63, an edge for each interface, is in test_tunnels.py.
    Row(64, (a("+", "+", 60),), "up", "", "", "The external peer completed a handshake 1 min ago."),
    Row(
        65,
        (a("=", "=", 86_400),),
        "idle",
        "",
        "",
        "No handshake for 1 d, and no keepalive. A phone that is switched off looks the same.",
    ),
    Row(
        66,
        (a("+", "=", 400, 25),),
        "down",
        "a",
        "X",
        "This side has to keep the tunnel up and does not succeed.",
    ),
    # Rows 67 to 69 are notes, and tests of the pairs of keys in test_tunnels.py.
    Row(70, (a("+", "=", 700, 25, count=1), b("=", "=", 700)), "unchanged", "", "", SHORT_RUN),
)

ROWS = (
    *RENEWAL_AND_LOSS,
    *ONE_DIRECTION,
    *NEVER,
    *NO_KEEPALIVE,
    *INTERFACES,
    *PRESENCE,
    *ONE_SIDED,
    *RESTARTS,
    *LOSS,
    *CLAIMS,
)
NOTES = {
    56: (
        Note.PACKET_LOSS,
        "Packet loss makes this tunnel hardly usable. The alarm's count shows how often it failed.",
    ),
    57: (Note.NOT_ALLOWED, NOT_ALLOWED),
    58: (Note.NOT_ALLOWED, NOT_ALLOWED),
    59: (
        Note.INVALID_DATA,
        "The direction A→B works: the handshakes that A's unanswered data triggers arrive.",
    ),
    61: (Note.STANDBY, "A second agent has this key on an interface that is down: a standby."),
    67: (Note.UNMONITORED, "This peer has a working tunnel, and nobody monitors it."),
    68: (Note.NOW_MONITORED, "An agent was installed on this peer."),
    69: (Note.FORGOTTEN, "A was forgotten. Nobody monitors it any more."),
}


def judged(ends: Sequence[End]) -> Verdict:
    return judge(*ends) if len(ends) == 2 else judge_external(*ends)


def fixed(verdict: Verdict, ends: Sequence[End]) -> str:
    """Return the agents to fix."""
    return "".join(sorted(ends[number].agent_id for number in verdict.fix))


def text(verdict: Verdict, ends: Sequence[End]) -> str:
    return explain(verdict, ends, [end.agent_id.upper() for end in ends], A_AT)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row {row.number}")
def test_row(row: Row) -> None:
    verdict = judged(row.ends)
    assert (verdict.state, fixed(verdict, row.ends), text(verdict, row.ends)) == (row.state, row.fix, row.text)
    assert alarm_kind(verdict) == ALARMS[row.alarm]


@pytest.mark.parametrize("row", [row for row in ROWS if len(row.ends) == 2], ids=lambda row: f"row {row.number}")
def test_the_order_of_the_ends_only_renames_them(row: Row) -> None:
    verdict, mirrored = judge(row.ends[0], row.ends[1]), judge(row.ends[1], row.ends[0])
    assert mirrored.state is verdict.state
    assert fixed(mirrored, row.ends[::-1]) == fixed(verdict, row.ends)
    # In a text that treats both alike, the first end comes first.
    swapped = {"A": "B", "B": "A"}
    alike = "".join(swapped.get(character, character) for character in text(mirrored, row.ends[::-1]))
    assert text(verdict, row.ends) in (text(mirrored, row.ends[::-1]), alike)


@pytest.mark.parametrize("number", NOTES, ids=lambda number: f"row {number}")
def test_the_note_of_a_row(number: int) -> None:
    note, expected = NOTES[number]
    assert explain_note(note, "A", "B") == expected


def test_every_row_of_the_table_is_tested() -> None:
    elsewhere = {63}
    assert {row.number for row in ROWS} | NOTES.keys() | elsewhere == set(range(1, 71))


@pytest.mark.parametrize("row", [row for row in ROWS if row.alarm], ids=lambda row: f"row {row.number}")
def test_the_text_of_an_alarm_does_not_change_with_time(row: Row) -> None:
    verdict = judged(row.ends)
    names = ("A", "B")[: len(row.ends)]
    assert explain(verdict, row.ends, names, A_AT) == explain(verdict, row.ends, names, A_AT + HOUR)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row {row.number}")
def test_a_row_has_commands_to_check_with(row: Row) -> None:
    found = commands(judged(row.ends), row.ends)
    assert found
    assert all(command.end < len(row.ends) and "{" not in command.text for command in found)
