"""When alarms open, continue and close."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_manager.alarms.alarm_rules import (
    AlarmKind,
    Closed,
    Event,
    Finding,
    Findings,
    Opened,
    Renewed,
    amend,
    compare,
    find_evidence,
)
from kattila_manager.records import Ambiguity, KeyName, Snapshot
from support.fleet import DAY, HOUR, MINUTE, NOON, SECOND
from support.snapshots import KEYS, PREVIOUS, agent, alarm, refusal, snapshot, watch

ONE, TWO = agent(1), agent(2)
SILENT = agent(3, last_seen_at=NOON - 5 * MINUTE)


def look(seen: Snapshot, keys: Sequence[KeyName] | None = KEYS, now: int = NOON) -> Findings:
    return find_evidence(seen, keys, watch(seen, now))


def events(seen: Snapshot, keys: Sequence[KeyName] | None = KEYS, now: int = NOON) -> tuple[Event, ...]:
    return compare(seen.open_alarms, look(seen, keys, now), now)


def only(found: Findings) -> Finding:
    [finding] = found.found
    return finding


def test_a_healthy_fleet_raises_no_alarm() -> None:
    assert events(snapshot(ONE, TWO)) == ()


def test_evidence_that_cannot_be_judged_hides_no_other_and_closes_no_alarm() -> None:
    broken: Any = refusal("replay", TWO.agent_id, 3, NOON, detail=7)
    of_two = alarm("replay", TWO.agent_id, counter=1)
    found = look(snapshot(ONE, TWO, SILENT, refusals=(broken, refusal("replay", ONE.agent_id, 3, NOON))))
    assert {finding.subject for finding in found.found} == {("replay", ONE.agent_id), ("agent_silent", SILENT.agent_id)}
    assert found.failed.keys() == {("replay", TWO.agent_id)}
    assert all(isinstance(event, Opened) for event in compare((of_two,), found, NOON))


# --- Counters


@pytest.mark.parametrize(
    "kind",
    [AlarmKind.BAD_SIGNATURE, AlarmKind.REPLAY, AlarmKind.CLOCK_SKEW, AlarmKind.IDENTITY_CONFLICT],
)
def test_a_counter_that_grew_recently_opens_an_alarm(kind: AlarmKind) -> None:
    whom = None if kind is AlarmKind.BAD_SIGNATURE else ONE.agent_id
    [event] = events(snapshot(ONE, refusals=(refusal(kind, whom, 7, NOON - MINUTE, first_at=NOON - 2 * MINUTE),)))
    assert isinstance(event, Opened)
    assert (event.subject, event.count, event.counter) == ((kind, whom), 7, 7)
    assert (event.opened_at, event.last_at) == (NOON - 2 * MINUTE, NOON - MINUTE)
    assert "a detail" in event.detail


@pytest.mark.parametrize(("last_at", "is_open"), [(NOON - 15 * MINUTE, True), (NOON - 15 * MINUTE - 1, False)])
def test_a_counter_alarm_closes_after_15_quiet_minutes(last_at: int, is_open: bool) -> None:
    opened = alarm("replay", ONE.agent_id, counter=7, count=7)
    quiet = snapshot(ONE, open_alarms=(opened,), refusals=(refusal("replay", ONE.agent_id, 7, last_at),))
    assert events(quiet) == (() if is_open else (Closed(opened, NOON),))


def test_an_open_alarm_counts_further_growth() -> None:
    opened = alarm("replay", ONE.agent_id, counter=107, count=7)
    counted = {("replay", ONE.agent_id): 107}
    newer = refusal("replay", ONE.agent_id, 110, NOON - SECOND, detail="newer")
    [event] = events(snapshot(ONE, open_alarms=(opened,), counters=counted, refusals=(newer,)))
    assert isinstance(event, Renewed)
    assert (event.count, event.counter, event.last_at) == (10, 110, NOON - SECOND)
    assert event.detail.startswith("newer")


def test_a_new_alarm_counts_from_the_end_of_the_last_one() -> None:
    again = refusal("replay", ONE.agent_id, 110, NOON - SECOND)
    [event] = events(snapshot(ONE, counters={("replay", ONE.agent_id): 107}, refusals=(again,)))
    assert isinstance(event, Opened)
    assert (event.count, event.counter, event.opened_at) == (3, 110, NOON - SECOND)


def test_a_reset_counter_counts_from_zero() -> None:
    opened = alarm("replay", ONE.agent_id, counter=107, count=7)
    fresh = refusal("replay", ONE.agent_id, 2, NOON - SECOND)
    seen = snapshot(ONE, open_alarms=(opened,), counters={("replay", ONE.agent_id): 107}, refusals=(fresh,))
    [event] = events(seen)
    assert isinstance(event, Renewed)
    assert (event.count, event.counter) == (9, 2)


def test_harmless_refusals_raise_no_alarm() -> None:
    others = ("malformed", "too_large", "superseded", "overloaded", "no_key", "wrong_content_type", "relay_loop")
    assert events(snapshot(ONE, refusals=tuple(refusal(kind, None, 9, NOON) for kind in others))) == ()


def test_a_clock_far_ahead_does_not_keep_an_alarm_open_forever() -> None:
    assert events(snapshot(ONE, refusals=(refusal("replay", None, 1, NOON + DAY),))) == ()


def test_dropped_samples_raise_an_alarm_with_their_count_and_time() -> None:
    gave_up = agent(1, waiting=3, dropped=1234, dropped_at=NOON - MINUTE, dropped_after=NOON - DAY)
    [event] = events(snapshot(gave_up))
    assert isinstance(event, Opened)
    assert (event.subject, event.count, event.counter) == ((AlarmKind.SAMPLES_DROPPED, ONE.agent_id), 1234, 1234)
    assert event.opened_at == event.last_at == NOON - MINUTE
    assert event.detail == (
        "1,234 samples dropped since its state folder was created, the newest after 2026-01-30 12:00:00 UTC; "
        "they were too old or too many, or its disk was full"
    )


def test_the_alarm_names_samples_dropped_before_the_first_report() -> None:
    detail = only(look(snapshot(agent(1, dropped=1, dropped_at=NOON)))).detail
    assert detail.startswith("1 sample dropped since its state folder was created, the newest before its first")


def test_more_dropped_samples_are_counted_and_15_quiet_minutes_close_the_alarm() -> None:
    opened = alarm("samples_dropped", ONE.agent_id, counter=5, count=5)
    counted = {("samples_dropped", ONE.agent_id): 5}
    more = agent(1, dropped=8, dropped_at=NOON, dropped_after=NOON - MINUTE)
    [event] = events(snapshot(more, open_alarms=(opened,), counters=counted))
    assert isinstance(event, Renewed)
    assert (event.count, event.counter) == (8, 8)
    quiet = agent(1, dropped=5, dropped_at=NOON - 15 * MINUTE - 1)
    assert events(snapshot(quiet, open_alarms=(opened,), counters=counted)) == (Closed(opened, NOON),)


@pytest.mark.parametrize("told", [{}, {"waiting": 9}, {"dropped": 0}, {"waiting": 9, "dropped": 0}])
def test_waiting_samples_raise_no_alarm(told: dict[str, int]) -> None:
    assert events(snapshot(agent(1, **told))) == ()


# --- Identity


def test_an_identity_conflict_names_both_machines() -> None:
    said = f"clone.example.net reports as {ONE.agent_id}, which {ONE.hostname} holds; it must register again"
    finding = only(look(snapshot(ONE, refusals=(refusal("identity_conflict", ONE.agent_id, 1, NOON, detail=said),))))
    assert finding.subject == (AlarmKind.IDENTITY_CONFLICT, ONE.agent_id)
    assert "clone.example.net" in finding.detail
    assert ONE.hostname in finding.detail


def test_an_issued_id_is_an_identity_conflict_of_the_first_id() -> None:
    issued = agent(2, instead_of=ONE.agent_id, first_seen_at=NOON - MINUTE)
    finding = only(look(snapshot(ONE, issued)))
    assert finding.subject == (AlarmKind.IDENTITY_CONFLICT, ONE.agent_id)
    assert (finding.growth, finding.last_at) == (1, NOON - MINUTE)
    assert finding.detail == (
        f"{issued.hostname} used the id {ONE.agent_id}, which {ONE.hostname} holds; it now has {issued.agent_id}"
    )


def test_an_id_issued_long_ago_raises_no_alarm() -> None:
    assert events(snapshot(ONE, agent(2, instead_of=ONE.agent_id))) == ()


def test_all_evidence_of_one_conflict_is_one_alarm_with_the_newest_detail() -> None:
    signs = (
        refusal("identity_unproven", ONE.agent_id, 2, NOON - 3 * MINUTE, detail="not clear yet"),
        refusal("identity_conflict", ONE.agent_id, 3, NOON - 2 * MINUTE, detail="clear"),
    )
    issued = agent(2, instead_of=ONE.agent_id, first_seen_at=NOON - MINUTE)
    [event] = events(snapshot(ONE, issued, refusals=signs))
    assert isinstance(event, Opened)
    assert event.count == 6
    assert event.detail.startswith(issued.hostname)


# --- States


def test_a_silent_agent_has_an_alarm_until_it_reports() -> None:
    [event] = events(snapshot(ONE, SILENT))
    assert isinstance(event, Opened)
    assert event.subject == (AlarmKind.AGENT_SILENT, SILENT.agent_id)
    assert (event.opened_at, event.count, event.counter) == (SILENT.last_seen_at, 1, None)
    assert event.detail == "no report since 2026-01-31 11:55:00 UTC; the last one came direct"
    opened = alarm("agent_silent", SILENT.agent_id, detail=event.detail)
    assert events(snapshot(ONE, SILENT, open_alarms=(opened,))) == ()
    back = replace(SILENT, last_seen_at=NOON)
    assert events(snapshot(ONE, back, open_alarms=(opened,))) == (Closed(opened, NOON),)


def test_late_samples_show_that_a_silent_agent_was_cut_off() -> None:
    closed = alarm("agent_silent", TWO.agent_id, alarm_id=7, closed_at=NOON)
    other = alarm("agent_silent", ONE.agent_id, alarm_id=8, closed_at=NOON)
    [amended] = amend((closed, other), {7: 20})
    assert amended.alarm == closed
    assert amended.detail == (
        "no report since 2026-01-31 11:50:00 UTC until 2026-01-31 12:00:00 UTC; "
        "it was cut off but alive: 20 samples arrived late"
    )
    told = replace(closed, detail=amended.detail)
    assert amend((told, other), {7: 20}) == ()
    [more] = amend((told, other), {7: 21})
    assert more.detail.endswith("21 samples arrived late")


def test_the_alarm_of_a_silent_agent_names_its_last_relays() -> None:
    relayed = replace(SILENT, relay_path=(ONE.agent_id, "00000000-0000-4000-8000-000000000000"))
    detail = only(look(snapshot(ONE, relayed))).detail
    assert detail.endswith(f"came via {ONE.hostname}, then 00000000-0000-4000-8000-000000000000")


def test_a_relayed_agent_raises_no_alarm() -> None:
    relayed = agent(2, relay_path=(ONE.agent_id,))
    assert events(snapshot(ONE, relayed)) == ()
    # Not even if its relay is down, as long as it reports.
    assert [
        event.subject
        for event in events(snapshot(SILENT, agent(2, relay_path=(SILENT.agent_id,))))
        if isinstance(event, Opened)
    ] == [(AlarmKind.AGENT_SILENT, SILENT.agent_id)]


def test_a_relayed_report_ends_a_silence() -> None:
    opened = alarm("agent_silent", TWO.agent_id)
    assert events(snapshot(ONE, agent(2, relay_path=(ONE.agent_id,)), open_alarms=(opened,))) == (Closed(opened, NOON),)


def test_the_alarm_names_an_agent_that_only_registered() -> None:
    registered = replace(SILENT, highest_sample=0, fingerprint="", latest_report_id=None)
    assert only(look(snapshot(registered))).detail == "registered, but never reported"


def test_silence_neither_begins_nor_ends_while_the_server_is_down() -> None:
    opened = alarm("agent_silent", ONE.agent_id)
    away = (NOON - DAY, NOON - MINUTE)
    assert events(snapshot(ONE, SILENT, open_alarms=(opened,), listening=away)) == ()


def test_a_restart_of_the_server_does_not_end_a_silence() -> None:
    opened = alarm("agent_silent", SILENT.agent_id)
    assert events(snapshot(SILENT, open_alarms=(opened,), listening=(NOON - 10 * SECOND, NOON))) == ()


def test_a_previous_key_raises_an_alarm_until_the_agent_uses_the_current_one() -> None:
    late = agent(1, fingerprint=PREVIOUS.fingerprint)
    [event] = events(snapshot(late, TWO))
    assert isinstance(event, Opened)
    assert event.subject == (AlarmKind.PREVIOUS_KEY, late.agent_id)
    assert event.detail.startswith("signs with 3954075d; the current key eb97b356 was first seen 2026-01-31 10:00:00")
    opened = alarm("previous_key", late.agent_id, detail=event.detail)
    assert events(snapshot(late, TWO, open_alarms=(opened,))) == ()
    assert events(snapshot(ONE, TWO, open_alarms=(opened,))) == (Closed(opened, NOON),)


@pytest.mark.parametrize(
    ("current_since", "is_alarm"),
    [
        (NOON, False),
        (NOON - SECOND, False),
        (NOON - 2 * HOUR + SECOND, False),
        (NOON - 2 * HOUR, True),
        (NOON - DAY, True),
        # The clock was set back a little, or a lot.
        (NOON + MINUTE, False),
        (NOON + DAY, True),
    ],
)
@pytest.mark.parametrize("first_seen_at", [None, NOON - 40 * DAY])
def test_a_previous_key_raises_an_alarm_only_after_two_refresh_intervals(
    current_since: int, is_alarm: bool, first_seen_at: int | None
) -> None:
    # A key that was current before, and is again, was first seen long ago.
    seen_at = current_since if first_seen_at is None else first_seen_at
    current = replace(KEYS[0], first_seen_at=seen_at, current_since=current_since)
    late = agent(1, fingerprint=PREVIOUS.fingerprint)
    opened = events(snapshot(late, TWO), (current, PREVIOUS))
    assert [event.subject for event in opened if isinstance(event, Opened)] == [
        (AlarmKind.PREVIOUS_KEY, late.agent_id)
    ] * is_alarm
    assert len(opened) == is_alarm


def test_a_second_rotation_keeps_the_alarm_of_an_agent_that_missed_the_first() -> None:
    current = replace(KEYS[0], first_seen_at=NOON, current_since=NOON)
    late = agent(1, fingerprint="00000000")
    opened = alarm("previous_key", late.agent_id)
    assert events(snapshot(late, open_alarms=(opened,)), (current, PREVIOUS)) == ()
    moved = agent(1, fingerprint=current.fingerprint)
    assert events(snapshot(moved, open_alarms=(opened,)), (current, PREVIOUS)) == (Closed(opened, NOON),)


@pytest.mark.parametrize("keys", [KEYS, ()])
def test_several_records_raise_an_alarm_until_only_one_is_left(keys: tuple[KeyName, ...]) -> None:
    seen, two = snapshot(ONE), Ambiguity(("3954075d", "eb97b356"), NOON - MINUTE)
    [event] = compare((), find_evidence(seen, keys, watch(seen, NOON), two), NOON)
    assert isinstance(event, Opened)
    assert event.subject == ("record_ambiguous", None)
    assert (event.opened_at, event.count) == (NOON - MINUTE, 1)
    assert "2 TXT records could be the PSK (fingerprints 3954075d, eb97b356): remove all but one" in event.detail
    assert ("the last good key eb97b356 stays in use" in event.detail) is bool(keys)
    opened = alarm("record_ambiguous", None, detail=event.detail)
    still = find_evidence(seen, keys, watch(seen, NOON), two)
    assert compare((opened,), still, NOON) == ()
    three = replace(two, fingerprints=("00000000", *two.fingerprints))
    [renewed] = compare((opened,), find_evidence(seen, keys, watch(seen, NOON), three), NOON)
    assert isinstance(renewed, Renewed)
    assert compare((opened,), find_evidence(seen, None, watch(seen, NOON)), NOON) == ()
    assert compare((opened,), find_evidence(seen, keys, watch(seen, NOON)), NOON) == (Closed(opened, NOON),)


def test_a_key_that_left_the_ring_updates_the_alarm() -> None:
    late = agent(1, fingerprint=PREVIOUS.fingerprint)
    opened = alarm("previous_key", late.agent_id, detail="signs with 3954075d; …")
    [event] = events(snapshot(late, open_alarms=(opened,)), KEYS[:1])
    assert isinstance(event, Renewed)
    assert "no longer in the ring" in event.detail
    assert event.count == 1


@pytest.mark.parametrize("keys", [None, ()])
def test_without_a_ring_keys_are_not_judged(keys: tuple[KeyName, ...] | None) -> None:
    late = agent(1, fingerprint=PREVIOUS.fingerprint)
    assert events(snapshot(late, open_alarms=(alarm("previous_key", late.agent_id),)), keys) == ()
    assert events(snapshot(late), keys) == ()


def test_an_agent_that_never_signed_a_report_uses_no_key() -> None:
    assert events(snapshot(agent(1, fingerprint="", highest_sample=0))) == ()


# --- Texts


def test_a_detail_is_bounded_and_safe_for_terminals() -> None:
    name = "\x1b[2J\u202e" + "n" * 10_000
    cloned = agent(2, hostname=name, instead_of=ONE.agent_id, first_seen_at=NOON)
    said = refusal("replay", ONE.agent_id, 1, NOON, detail=name)
    for finding in look(snapshot(ONE, cloned, refusals=(said,))).found:
        assert len(finding.detail) <= 500
        assert finding.detail.isprintable()


# --- Any sequence of findings


_SUBJECTS = [(kind.value, whom) for kind in AlarmKind for whom in (ONE.agent_id, TWO.agent_id, None)]
_FINDINGS = st.builds(
    lambda subject, counter, counted: Finding(subject, NOON, NOON, "said", counter, counted),
    st.sampled_from(_SUBJECTS),
    st.none() | st.integers(1, 50),
    st.integers(0, 50),
)


@given(
    st.lists(_FINDINGS, unique_by=lambda finding: finding.subject),
    st.lists(st.sampled_from(_SUBJECTS), unique=True),
    st.sets(st.sampled_from(_SUBJECTS)),
)
def test_each_subject_has_one_alarm_and_comparing_again_changes_nothing(
    found: list[Finding], opened: list[tuple[str, str | None]], unknown: set[tuple[str, str | None]]
) -> None:
    before = [alarm(kind, whom, alarm_id=number) for number, (kind, whom) in enumerate(opened)]
    result = Findings(tuple(found), frozenset(unknown))
    after = {(one.kind, one.agent_id): one for one in before}
    for event in compare(before, result, NOON):
        if isinstance(event, Opened):
            assert event.subject not in after
            assert event.count >= 1
            kind, whom = event.subject
            after[event.subject] = alarm(kind, whom, count=event.count, counter=event.counter, detail=event.detail)
        elif isinstance(event, Closed):
            closed = after.pop((event.alarm.kind, event.alarm.agent_id))
            assert (closed.kind, closed.agent_id) not in unknown
        else:
            assert isinstance(event, Renewed)
            subject = (event.alarm.kind, event.alarm.agent_id)
            assert event.count >= event.alarm.count
            after[subject] = replace(event.alarm, count=event.count, counter=event.counter, detail=event.detail)
    assert {finding.subject for finding in found} <= after.keys()
    assert after.keys() <= {finding.subject for finding in found} | unknown
    assert compare(after.values(), result, NOON + HOUR) == ()
