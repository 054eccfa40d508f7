"""Verdicts beyond the rows of the table: boundaries, short runs, situations without a row, and safe commands."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kattila_manager.topology.wireguard.ends import End, Standing
from kattila_manager.topology.wireguard.explanations import commands, explain
from kattila_manager.topology.wireguard.reasons import TEXTS, Note, Reason
from kattila_manager.topology.wireguard.states import TunnelState, alarm_kind
from kattila_manager.topology.wireguard.verdicts import judge, judge_external
from support.counts import examples
from support.fleet import HOUR, MINUTE, SECOND
from support.tunnel_ends import A_AT, B_AT, STEP, a, absent, b, samples, view

PSK: dict[str, Any] = {"has_preshared_key": True}


# --- Boundaries


@pytest.mark.parametrize(
    ("age", "state"), [(180, "up"), (181, "suspect"), (220, "suspect"), (221, "down"), (3600, "down")]
)
def test_a_session_is_due_after_180_s_and_late_after_the_limit(age: int, state: str) -> None:
    assert judge(a("=", "=", age, 25), b("=", "=", age)).state == state


def test_the_age_ends_at_the_older_sample() -> None:
    newer = 60 * SECOND
    assert judge(a("+", "+", 175, 25), b("+", "+", 175, at=A_AT + newer)).state is TunnelState.UP


def test_a_handshake_that_only_one_side_knows_counts() -> None:
    assert judge(a("+", "+", 100, 25), b("+", "+", 400)).state is TunnelState.UP


@pytest.mark.parametrize(("ka", "kb", "limit"), [(25, 0, 220), (0, 60, 255), (25, 60, 220), (300, 0, 495)], ids=str)
def test_the_smallest_keepalive_decides_the_limit(ka: int, kb: int, limit: int) -> None:
    assert judge(a("=", "+=", limit, ka), b("=", "=", limit, kb)).state is TunnelState.SUSPECT
    assert judge(a("=", "+=", limit + 1, ka), b("=", "=", limit + 1, kb)).state is TunnelState.DOWN


def test_nothing_received_is_detected_before_the_limit_only_if_packets_are_lost() -> None:
    quiet = {"age": 195, "k": 25}
    assert judge(a("+", "+===", **quiet), b("+===", "+===", 195)).state is TunnelState.DOWN
    assert judge(a("+==", "+===", **quiet), b("+===", "+===", 195)).state is TunnelState.SUSPECT


# --- Short runs

_PATTERNS = st.text("+=", min_size=1, max_size=6)
_AGES = st.one_of(st.none(), st.integers(0, 1000))
_KEEPALIVES = st.sampled_from([0, 25, 60])
_ENDS = st.tuples(_PATTERNS, _PATTERNS, _AGES, _KEEPALIVES, st.integers(1, 12), st.booleans(), st.booleans())


def _drawn(make: Any, drawn: tuple[str, str, int | None, int, int, bool, bool], **changes: Any) -> End:
    tx, rx, age, keepalive, count, has_preshared_key, is_up = drawn
    kept = max(1, count - 1)
    members = {"count": count, "has_preshared_key": has_preshared_key, "is_up": is_up} | changes
    made: End = make(tx[:kept], rx[:kept], age, keepalive, **members)
    return made


@settings(max_examples=examples(1000))
@given(_ENDS, _ENDS)
def test_a_short_run_may_only_say_up(one: Any, other: Any) -> None:
    ends = (_drawn(a, one), _drawn(b, other))
    verdict = judge(*ends)
    keepalive = verdict.keepalive
    youngest = min((one[4] - 1) * STEP, (other[4] - 1) * STEP)
    if youngest < keepalive * SECOND + 3 * STEP:
        assert verdict.state in (TunnelState.UP, TunnelState.UNCHANGED)
    else:
        assert verdict.state is not TunnelState.UNCHANGED


@settings(max_examples=examples(1000))
@given(_ENDS, _ENDS, st.sampled_from(Standing), st.sampled_from(Standing))
def test_suspect_and_unchanged_call_for_no_alarm_and_every_verdict_has_a_text(
    one: Any, other: Any, standing: Standing, other_standing: Standing
) -> None:
    ends = (_drawn(a, one, standing=standing), _drawn(b, other, standing=other_standing))
    verdict, mirrored = judge(*ends), judge(*ends[::-1])
    if verdict.state in (TunnelState.SUSPECT, TunnelState.UNCHANGED, TunnelState.UNKNOWN):
        assert alarm_kind(verdict) is None
    assert explain(verdict, ends, ("A", "B"), A_AT)
    assert (mirrored.state, sorted(1 - side for side in mirrored.fix)) == (verdict.state, sorted(verdict.fix))
    assert alarm_kind(mirrored) == alarm_kind(verdict)


# --- One fresh side


@pytest.mark.parametrize("standing", [each for each in Standing if each is not Standing.FRESH])
def test_an_absent_agent_is_named_with_its_standing(standing: Standing) -> None:
    ends = (a("+", "+", 400, 25, standing=standing, at=A_AT - 5 * MINUTE), b("+", "=", 400))
    verdict = judge(*ends)
    assert (verdict.state, verdict.reason) == (TunnelState.DOWN, Reason.DOWN_BY_ONE)
    assert explain(verdict, ends, ("A", "B"), A_AT).startswith("B gets no answer from A, and A")


def test_the_word_of_one_side_may_be_idle_suspect_or_never() -> None:
    silent = a("=", "=", 100, standing=Standing.SILENT, at=A_AT - HOUR)
    assert judge(silent, b("=", "=", 400)).state is TunnelState.IDLE
    assert judge(silent, b("=+", "=", 400)).state is TunnelState.SUSPECT
    assert judge(silent, b("=+++", "=", 400)).state is TunnelState.DOWN
    assert judge(silent, b("=", "+=", 200, 25)).state is TunnelState.SUSPECT
    assert judge(a("=", "=", standing=Standing.SILENT), b("=", "=")).reason is Reason.NEVER_BY_ONE


def test_an_interface_that_was_down_when_its_agent_became_silent_is_not_judged() -> None:
    verdict = judge(a("+", "+", 400, is_up=False, standing=Standing.SILENT, at=A_AT - HOUR), b("+", "+", 100))
    assert verdict.state is TunnelState.UP


# --- Situations without a row


def test_a_stale_report_of_the_side_that_lists_the_peer() -> None:
    ends = (a("+", "+", 400, standing=Standing.SILENT), absent())
    verdict = judge(*ends)
    assert (verdict.state, alarm_kind(verdict)) == (TunnelState.UNKNOWN, None)
    assert explain(verdict, ends, ("A", "B"), A_AT) == (
        "A listed B in its last report, but that report is stale and A may have changed since. B does not list A."
    )


def test_a_first_attempt_without_a_handshake() -> None:
    ends = (a("=+", "=", None, 25), b("=", "="))
    verdict = judge(*ends)
    assert (verdict.state, alarm_kind(verdict)) == (TunnelState.NEVER, None)
    assert explain(verdict, ends, ("A", "B"), A_AT) == "No handshake yet. A is trying to reach B."


_NOT_RENEWED = "The session was not renewed within {} s of the last handshake."


@pytest.mark.parametrize(
    ("keepalive", "age", "state", "text"),
    [
        (25, 221, "down", _NOT_RENEWED.format(220)),
        (180, 376, "down", _NOT_RENEWED.format(375)),
        # Both ends may have begun a handshake at the same moment, and try again after another keepalive.
        (300, 496, "suspect", f"{_NOT_RENEWED.format(495)} No packet is known to be lost."),
        (300, 795, "suspect", f"{_NOT_RENEWED.format(495)} No packet is known to be lost."),
        (300, 796, "down", "The session was not renewed within 13 min 15 s of the last handshake."),
    ],
)
def test_a_session_that_is_late_although_no_packet_is_known_to_be_lost(
    keepalive: int, age: int, state: str, text: str
) -> None:
    ends = (a("=+", "=+", age, keepalive), b("=+", "=+", age))
    verdict = judge(*ends)
    assert (verdict.state, explain(verdict, ends, ("A", "B"), A_AT)) == (state, text)
    assert (alarm_kind(verdict) == "tunnel_down") is (state == "down")
    assert not verdict.is_certain


@pytest.mark.parametrize("age", [100, 170, 200, 219])
def test_three_losses_in_a_row_are_down_at_any_age(age: int) -> None:
    step = 10 * SECOND
    verdict = judge(a("+", "+", age, 25, step=step), b("+", "+=====", age, step=step))
    assert (verdict.state, verdict.fix) == (TunnelState.ONE_WAY, (1,))
    assert verdict.is_certain is (age > 180)


def test_an_alarm_need_not_wait_if_the_session_is_late_and_packets_are_lost() -> None:
    assert judge(a("+", "=", 221, 25), b("=", "=", 221)).is_certain
    assert not judge(a("+", "+===", 195, 25), b("+===", "+===", 195)).is_certain
    assert judge(a("=+++", "=", 400), b("=", "=", 400)).is_certain


def test_packets_of_a_session_that_the_receiver_lost_in_a_restart_are_not_lost() -> None:
    """Keepalives are never answered, so the sender notices nothing for up to 180 s."""
    before = samples("+", "+", 220, at=B_AT - 150 * SECOND)
    restarted: dict[str, Any] = {"before": before, "count": 6, "boot_id": "second"}
    up = judge(a("+", "+", 160, 25, at=A_AT - 60 * SECOND), b("=", "=", None, **restarted))
    assert (up.state, up.reason) == (TunnelState.UP, Reason.REBOOTED)


def test_a_handshake_proves_both_directions_although_one_side_has_not_reported_since() -> None:
    step = 10 * SECOND
    receiver = samples("+", "+" + "=" * 9, 500, at=B_AT, step=step)
    ends = (a("+", "+", 8, 25, step=step), b("+", "+")._replace(view=view(receiver)))
    assert judge(*ends).state is TunnelState.UP


def test_a_side_that_must_send_and_does_not_is_named_although_the_other_sides_packets_are_lost() -> None:
    verdict = judge(a("+===", "+=====", 300, 25), b("+", "+=====", 300))
    assert (verdict.reason, verdict.fix) == (Reason.NOT_SENDING, (0,))


def test_young_one_way_names_the_deaf_side() -> None:
    step = 20 * SECOND
    verdict = judge(a("+", "+", 100, 25, step=step), b("+", "+====", 100, step=step))
    assert (verdict.state, verdict.fix, verdict.first) == (TunnelState.ONE_WAY, (1,), 0)


def test_neither_end_listing_the_other_is_an_error() -> None:
    with pytest.raises(ValueError, match="no view"):
        judge(absent("a"), absent("b"))
    with pytest.raises(ValueError, match="no view"):
        judge_external(absent("a"))


# --- External peers


def test_external_peers_without_a_row() -> None:
    assert judge_external(a("=", "=")).reason is Reason.EXTERNAL_NEVER
    assert judge_external(a("=", "+=", 200, 25)).state is TunnelState.SUSPECT
    assert judge_external(a("=", "=", 400, 25)).reason is Reason.NOT_SENDING
    assert judge_external(a("=", "=", 400, 25, endpoint=None)).state is TunnelState.IDLE
    down = judge_external(a("=", "=", 400, 25, is_up=False))
    assert (down.state, alarm_kind(down)) == (TunnelState.DOWN, None)
    assert judge_external(a("+", "=", 400, 25, count=2)).state is TunnelState.UNCHANGED
    assert judge_external(a("+", "+", 60, 25, count=2)).state is TunnelState.UP
    silent = a("+", "+", 60, standing=Standing.SILENT)
    verdict = judge_external(silent)
    assert verdict.state is TunnelState.UNKNOWN
    assert explain(verdict, (silent,), ("A",), A_AT) == ("A is silent. Nothing is known since 2026-01-31 12:00:00 UTC.")
    assert judge_external(a("+", "+", 60, standing=Standing.UNREADABLE)).fix == (0,)


# --- Restarts


def test_a_known_handshake_of_before_both_reboots_is_the_last_one() -> None:
    evidence = samples("=", "=", count=15, known_handshake_at=A_AT - HOUR)
    assert (evidence.handshake_at, evidence.stamp) == (A_AT - HOUR, 0)


# --- Texts and commands


def test_every_reason_and_note_has_a_text() -> None:
    assert TEXTS.keys() == {*Reason, *Note}


def test_commands_name_interface_endpoint_and_mark() -> None:
    ends = (a("+", "=", 240, 25, fwmark=0xCA6C, endpoint="[2001:db8::7]:51820"), b("=", "=", 240))
    assert commands(judge(*ends), ends)[0] == (0, "ip route get 2001:db8::7 mark 0xca6c")
    ends = (a("+", "=", 400, 25), absent(interface="wg1"))
    assert commands(judge(*ends), ends) == ((1, "wg show wg1"), (0, "wg show wg0"))


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("[fe80::1%eth0]:51820", "ip route get fe80::1 oif eth0"),
        ("[fe80::1%$(reboot)]:51820", "ip route get fe80::1 oif '$(reboot)'"),
        ("192.0.2.1; reboot:51820", None),
        ("", None),
    ],
)
def test_commands_are_safe_to_paste_whatever_a_node_reports(endpoint: str, expected: str | None) -> None:
    ends = (a("+", "=", 240, 25, endpoint=endpoint, interface="wg0;reboot"), b("=", "=", 240))
    found = [command.text for command in commands(judge(*ends), ends) if command.end == 0]
    assert (found[0] if found[0].startswith("ip") else None) == expected
    down = (a("=", "=", 240, is_up=False, interface="wg0;reboot"), b("=", "=", 240))
    assert commands(judge(*down), down) == ((0, "ip link show dev 'wg0;reboot'"),)
    assert B_AT > A_AT
