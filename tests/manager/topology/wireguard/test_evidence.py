"""The fold over samples: intervals of growth, handshakes, restarts, gaps and late clocks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kattila_manager.topology.facts import Reading
from kattila_manager.topology.wireguard.evidence import Evidence, Restart, fold, lost, received, tried
from support.counts import examples
from support.fleet import HOUR, MINUTE, NOON, SECOND
from support.tunnel_ends import STEP, samples

SECONDS = NOON // SECOND


def reading(number: int, *, clock_step: int = 0, boot_id: str = "boot", interface_index: int | None = 5) -> Reading:
    at = NOON + number * STEP
    return Reading(at, STEP, at + clock_step, boot_id, interface_index)


def first(rx: int = 100, tx: int = 100, latest_handshake: int = 0) -> Evidence:
    return fold(None, reading(0), rx, tx, latest_handshake)


# --- Growth


def test_the_first_sample_begins_a_run_without_growth() -> None:
    seen = first()
    assert (seen.run_at, seen.step_ms, seen.rx_grew, seen.tx_grew) == (NOON, STEP, (), ())
    assert (seen.received_at, seen.sent_at) == (NOON, NOON)


def test_an_interval_counts_if_its_counter_grew() -> None:
    seen = fold(fold(first(), reading(1), 100, 148, 0), reading(2), 132, 148, 0)
    assert seen.tx_grew == (NOON, NOON + STEP)
    assert seen.rx_grew == (NOON + STEP, NOON + 2 * STEP)
    assert (seen.sent_at, seen.received_at) == (NOON + STEP, NOON + 2 * STEP)


def test_the_last_twelve_intervals_are_kept() -> None:
    seen = samples("+", "=", count=20, at=NOON)
    assert seen.tx_grew == tuple(NOON - n * STEP for kept in range(12, 0, -1) for n in (kept, kept - 1))


def test_a_skipped_sample_only_makes_an_interval_longer() -> None:
    seen = fold(first(), reading(2), 200, 200, 0)
    assert seen.rx_grew == seen.tx_grew == (NOON, NOON + 2 * STEP)
    assert (seen.step_ms, seen.run_at) == (2 * STEP, NOON)


# --- Restarts and gaps


@pytest.mark.parametrize(
    ("restart", "following", "rx", "tx"),
    [
        (Restart.REBOOT, reading(9, boot_id="second"), 900, 900),
        (Restart.RECREATED, reading(9, interface_index=6), 900, 900),
        (Restart.COUNTER, reading(9), 0, 900),
        (Restart.COUNTER, reading(9), 900, 99),
        (Restart.TIME, reading(-1), 900, 900),
        (Restart.TIME, reading(0), 900, 900),
    ],
)
def test_the_evidence_restarts_and_keeps_the_handshake(restart: Restart, following: Reading, rx: int, tx: int) -> None:
    before = fold(first(latest_handshake=SECONDS - 60), reading(0)._replace(at=NOON + 1), 200, 200, SECONDS - 60)
    assert before.rx_grew
    seen = fold(before._replace(reading=reading(0)), following, rx, tx, 0)
    assert seen.restart is restart
    assert (seen.rx_grew, seen.tx_grew, seen.run_at, seen.restarted_at) == ((), (), following.at, following.at)
    assert seen.handshake_at == NOON - MINUTE


def test_an_unknown_interface_index_is_no_restart() -> None:
    seen = fold(first(), reading(1, interface_index=None), 200, 200, 0)
    assert seen.restart is None
    assert fold(seen, reading(2), 300, 300, 0).restart is None


@pytest.mark.parametrize(("steps", "is_gap"), [(3, False), (4, True)])
def test_a_gap_begins_a_run_and_the_counters_continue(steps: int, is_gap: bool) -> None:
    seen = fold(first(), reading(steps), 200, 200, 0)
    assert seen.run_at == (NOON + steps * STEP if is_gap else NOON)
    assert seen.rx_grew == (NOON, NOON + steps * STEP)
    assert seen.restart is None


# --- Handshakes


def test_a_handshake_has_the_managers_time_whatever_the_offset_of_the_nodes_clock() -> None:
    at = NOON + STEP
    ahead = Reading(at, STEP, at + 8 * MINUTE, "boot", 5)
    assert fold(None, ahead, 100, 100, (at + 8 * MINUTE) // SECOND - 20).handshake_at == at - 20 * SECOND


def test_a_newer_handshake_counts_only_with_growth_of_rx() -> None:
    known = first(latest_handshake=SECONDS - 60)
    assert fold(known, reading(1), 100, 900, SECONDS + 10).handshake_at == NOON - MINUTE
    assert fold(known, reading(1), 101, 900, SECONDS + 10).handshake_at == NOON + 10 * SECOND


@pytest.mark.parametrize("clock_step", [5 * SECOND, -5 * SECOND, MINUTE, -MINUTE, HOUR, -HOUR])
def test_a_step_of_the_clock_does_not_move_a_known_handshake(clock_step: int) -> None:
    seen = first(latest_handshake=SECONDS - 60)
    for number in range(1, 10):
        seen = fold(seen, reading(number, clock_step=clock_step), 100 + number, 100, SECONDS - 60)
    assert seen.handshake_at == NOON - MINUTE
    assert seen.clock_shift_ms == clock_step


def test_a_new_handshake_after_a_step_of_the_clock_counts() -> None:
    known = first(latest_handshake=SECONDS - 60)
    now = reading(4, clock_step=-HOUR)
    seen = fold(known, now, 200, 200, now.clock // SECOND - 7)
    assert (seen.handshake_at, seen.clock_shift_ms) == (now.at - 7 * SECOND, 0)


@pytest.mark.parametrize(("ahead", "expected"), [(10, NOON), (11, None)])
def test_a_handshake_slightly_in_the_future_counts_as_now(ahead: int, expected: int | None) -> None:
    assert first(latest_handshake=SECONDS + ahead).handshake_at == expected


def test_a_clock_is_behind_until_it_passes_the_last_handshake() -> None:
    seen = samples("+", "+", 60, at=NOON)
    stepped = fold(seen, reading(1, clock_step=-HOUR), seen.rx, seen.tx + 148, seen.stamp)
    assert not seen.is_clock_behind
    assert stepped.is_clock_behind
    assert not fold(stepped, reading(1 + 120, clock_step=-HOUR), seen.rx, seen.tx + 148, seen.stamp).is_clock_behind


def test_a_handshake_that_an_earlier_publisher_knew_counts_as_before_a_restart() -> None:
    seen = fold(None, reading(0), 100, 100, 0, known_handshake_at=NOON - HOUR)
    assert (seen.handshake_at, seen.restarted_at) == (NOON - HOUR, NOON)
    known = fold(None, reading(0), 100, 100, SECONDS - 60, known_handshake_at=NOON - MINUTE)
    assert (known.handshake_at, known.restarted_at) == (NOON - MINUTE, 0)


# --- Lost packets


def test_packets_are_lost_in_intervals_after_the_receivers_last_growth() -> None:
    sender, receiver = samples("+", "=", at=NOON), samples("=", "+===", at=NOON + 10 * SECOND)
    # The receiver's rx grew until 80 s before noon, so the sender's intervals from 60 s before noon count.
    assert lost(sender, receiver) == 2
    assert lost(receiver, sender) == 0


@pytest.mark.parametrize(("later", "expected"), [(2000, 11), (2001, 12)])
def test_an_interval_counts_only_after_the_receivers_next_sample(later: int, expected: int) -> None:
    sender, receiver = samples("+", "=", at=NOON), samples("=", "=", at=NOON + later)
    assert lost(sender, receiver) == expected


@pytest.mark.parametrize(("earlier", "expected"), [(2000, 2), (2001, 3)])
def test_an_interval_counts_only_if_it_began_after_the_receivers_last_growth(earlier: int, expected: int) -> None:
    sender = samples("+", "=", at=NOON)
    receiver = samples("=", "+====", at=NOON + STEP - earlier)
    assert lost(sender, receiver) == expected


def test_a_receiver_that_never_received_counts_from_the_start_of_its_run() -> None:
    sender, receiver = samples("+", "=", at=NOON), samples("=", "=", at=NOON + SECOND * 10, count=4)
    # Its run began 80 s before noon.
    assert lost(sender, receiver) == 2


def test_tries_are_intervals_since_ones_own_last_growth() -> None:
    assert tried(samples("+", "+===", at=NOON)) == 2
    assert tried(samples("+", "=", at=NOON)) == 12
    assert tried(samples("+", "+", at=NOON)) == 0


def test_packets_long_after_a_handshake_are_not_those_of_its_session() -> None:
    seen = samples("=", "+", at=NOON)
    assert received(seen, NOON - 195 * SECOND - 2 * STEP - 1) == 2
    assert received(seen, NOON - 195 * SECOND - 2 * STEP) == 1
    assert received(seen, NOON) == 0


# --- Any sequence

_STEPS = st.lists(
    st.tuples(
        st.integers(-40_000, 200_000),
        st.integers(-50, 500),
        st.integers(-50, 500),
        st.integers(-4000, 4000),
        st.sampled_from(["boot", "boot", "boot", "second"]),
    ),
    max_size=30,
)


@settings(max_examples=examples(400))
@given(_STEPS)
def test_after_any_samples_intervals_ascend_and_handshakes_are_not_in_the_future(
    steps: list[tuple[int, int, int, int, str]],
) -> None:
    seen = first(latest_handshake=SECONDS - 100)
    latest = seen.handshake_at or 0
    for after, more_rx, more_tx, handshake, boot_id in steps:
        at = seen.at + after
        moved = Reading(at, STEP, at, boot_id, 5)
        rx, tx = max(0, seen.rx + more_rx), max(0, seen.tx + more_tx)
        following = fold(seen, moved, rx, tx, max(0, at // SECOND + handshake))
        assert following.handshake_at is not None
        assert latest <= following.handshake_at <= max(at, latest)
        for grew in (following.rx_grew, following.tx_grew):
            assert len(grew) <= 24
            assert list(grew) == sorted(grew)
            assert not grew or grew[-1] <= at
        assert following.run_at <= at
        seen, latest = following, following.handshake_at
