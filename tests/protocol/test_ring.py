"""The key ring: which keys verify and sign, their order during rotations, and when they leave."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kattila_protocol.errors import BadSignature, NoKey
from kattila_protocol.ring import LEAST_KEPT_MS, MOST_KEPT_MS, RING_SIZE, TRIAL_MS, UNPROVEN_KEPT_MS, Ring, Standing
from kattila_protocol.signing import Key, Purpose
from protocol.samples import FOREIGN_KEY, KEY, NOW, OLDEST_KEY, OLDEST_PSK, PREVIOUS_KEY, PREVIOUS_PSK, PSK, RING

NEW_PSK = b"example psk of the month to come"
NEW_KEY = Key.from_psk(NEW_PSK)
FALSE_PSKS = [f"false psk number {number}".encode() for number in range(9)]
HOUR = 60 * 60 * 1000
DAY = 24 * HOUR
ALONE = Ring().with_current(PSK, NOW - 90 * DAY).with_current(PSK, NOW)


def keys_of(ring: Ring) -> list[Key]:
    return [entry.key for entry in ring.entries]


def named(ring: Ring, psk: bytes, *times: int) -> Ring:
    """Return the ring after answers at these times that name this PSK."""
    for time in times:
        ring = ring.with_current(psk, time)
    return ring


def test_the_newest_key_is_first_and_signs() -> None:
    ring = named(named(Ring(), OLDEST_PSK, 0, HOUR), PREVIOUS_PSK, 2 * HOUR, 3 * HOUR)
    ring = named(ring, PSK, 4 * HOUR)
    assert keys_of(ring) == [KEY, PREVIOUS_KEY, OLDEST_KEY]
    assert [entry.first_seen_at for entry in ring.entries] == [4 * HOUR, 2 * HOUR, 0]
    assert ring.current == KEY


def test_the_first_key_is_believed_and_a_new_one_is_on_trial() -> None:
    assert [entry.standing for entry in Ring().with_current(PSK, NOW).entries] == [Standing.FIRST]
    ring = ALONE.with_current(NEW_PSK, NOW + HOUR)
    assert [entry.standing for entry in ring.entries] == [Standing.TRIAL, Standing.FIRST]
    # It verifies and signs at once, so that a rotation takes no time.
    assert ring.current == NEW_KEY
    assert ring.verify(Purpose.REPORT, b"message", NEW_KEY.sign(Purpose.REPORT, b"message")) == NEW_KEY


def test_a_second_answer_a_minute_later_proves_a_key() -> None:
    ring = ALONE.with_current(NEW_PSK, NOW).with_current(NEW_PSK, NOW + TRIAL_MS - 1)
    assert ring.entries[0].standing is Standing.TRIAL
    assert ring.with_current(NEW_PSK, NOW + TRIAL_MS).entries[0].standing is Standing.PROVEN


def test_a_key_on_trial_leaves_with_the_first_answer_that_names_another() -> None:
    ring = ALONE.with_current(NEW_PSK, NOW)
    assert keys_of(ring.with_current(PSK, NOW + 1)) == [KEY]
    assert keys_of(ring.with_current(FALSE_PSKS[0], NOW + 1)) == [Key.from_psk(FALSE_PSKS[0]), KEY]


def test_keys_on_trial_push_no_key_out() -> None:
    ring = RING
    for number, psk in enumerate(FALSE_PSKS):
        ring = ring.with_current(psk, NOW + number)
        assert keys_of(ring) == [Key.from_psk(psk), KEY, PREVIOUS_KEY, OLDEST_KEY]
    assert keys_of(ring.with_current(PSK, NOW + 10)) == [KEY, PREVIOUS_KEY, OLDEST_KEY]


@pytest.mark.parametrize("ring", [ALONE, Ring().with_current(PSK, NOW)], ids=["named for long", "named once"])
def test_false_keys_that_were_proven_do_not_push_a_longer_named_key_out(ring: Ring) -> None:
    for number, psk in enumerate(FALSE_PSKS, start=1):
        ring = named(ring, psk, NOW + number * HOUR, NOW + number * HOUR + TRIAL_MS)
        assert KEY in keys_of(ring)
        assert len(ring.entries) <= RING_SIZE


def test_of_too_many_keys_the_one_leaves_that_dns_named_for_the_shortest_time() -> None:
    ring = named(ALONE, PREVIOUS_PSK, NOW + DAY, NOW + 2 * DAY)
    ring = named(ring, OLDEST_PSK, NOW + 3 * DAY, NOW + 3 * DAY + 2 * HOUR)
    ring = named(ring, NEW_PSK, NOW + 3 * DAY + 3 * HOUR)
    assert keys_of(ring) == [NEW_KEY, OLDEST_KEY, PREVIOUS_KEY, KEY]
    assert keys_of(named(ring, NEW_PSK, NOW + 3 * DAY + 4 * HOUR)) == [NEW_KEY, PREVIOUS_KEY, KEY]


@pytest.mark.parametrize(
    ("named_ms", "kept_ms"),
    [(TRIAL_MS, LEAST_KEPT_MS), (5 * HOUR, 5 * HOUR), (7 * DAY, 7 * DAY), (90 * DAY, MOST_KEPT_MS)],
)
def test_a_key_stays_as_long_as_dns_had_named_it_within_bounds(named_ms: int, kept_ms: int) -> None:
    ring = named(ALONE, NEW_PSK, NOW, NOW + named_ms)
    gone_at = NOW + named_ms + HOUR
    ring = ring.with_current(PSK, gone_at)
    assert ring.entries[1].expires_at == gone_at + kept_ms
    assert keys_of(ring.with_current(PSK, gone_at + kept_ms - 1)) == [KEY, NEW_KEY]
    assert keys_of(ring.with_current(PSK, gone_at + kept_ms)) == [KEY]


@pytest.mark.parametrize(
    ("ring", "kept_ms"),
    [(ALONE, MOST_KEPT_MS), (Ring().with_current(PSK, NOW), UNPROVEN_KEPT_MS), (RING, MOST_KEPT_MS)],
)
def test_the_first_key_stays_longer_because_dns_may_have_named_it_before(ring: Ring, kept_ms: int) -> None:
    ring = named(ring, NEW_PSK, NOW + HOUR, NOW + 2 * HOUR)
    assert KEY in keys_of(ring.with_current(NEW_PSK, NOW + HOUR + kept_ms - 1))
    assert keys_of(ring.with_current(NEW_PSK, NOW + HOUR + kept_ms)) == [NEW_KEY]


def test_time_without_an_answer_removes_no_key() -> None:
    # The node was off, or DNS was down, for a year: it did not see when the record changed.
    ring = RING.with_current(NEW_PSK, NOW + 365 * DAY)
    assert keys_of(ring) == [NEW_KEY, KEY, PREVIOUS_KEY, OLDEST_KEY]


def test_a_clock_that_was_set_back_keeps_no_key_for_longer() -> None:
    ring = named(ALONE, NEW_PSK, NOW, NOW + HOUR).with_current(PSK, NOW + 365 * DAY)
    assert ring.entries[1].expires_at == NOW + 365 * DAY + HOUR
    ring = ring.with_current(PSK, NOW + 2 * HOUR)
    assert ring.entries[1].expires_at == NOW + 3 * HOUR
    on_trial = ALONE.with_current(NEW_PSK, NOW + 365 * DAY).with_current(NEW_PSK, NOW)
    assert on_trial.with_current(NEW_PSK, NOW + TRIAL_MS).entries[0].standing is Standing.PROVEN


def test_flapping_between_two_records_evicts_no_proven_key() -> None:
    ring = RING
    for number in range(1000):
        ring = ring.with_current(PREVIOUS_PSK if number % 2 == 0 else PSK, NOW + number)
    assert keys_of(ring) == keys_of(RING)


def test_the_current_key_again_changes_only_when_it_was_last_seen() -> None:
    ring = ALONE.with_current(PSK, NOW + 60_000)
    assert ring == Ring((replace(ALONE.entries[0], last_seen_at=NOW + 60_000),))


def test_a_known_key_moves_to_the_front_and_keeps_its_times() -> None:
    ring = RING.with_use(OLDEST_KEY.fingerprint, NOW + 5).with_current(OLDEST_PSK, NOW + 9)
    assert keys_of(ring) == [OLDEST_KEY, KEY, PREVIOUS_KEY]
    assert (ring.entries[0].first_seen_at, ring.entries[0].last_used_at) == (NOW - 2, NOW + 5)


def test_a_key_can_be_forgotten() -> None:
    assert keys_of(RING.without(PREVIOUS_KEY.fingerprint)) == [KEY, OLDEST_KEY]
    assert RING.without(KEY.fingerprint).current == PREVIOUS_KEY
    # The only key left is not on trial, so the next answer does not remove it.
    left = ALONE.with_current(NEW_PSK, NOW).without(KEY.fingerprint)
    assert keys_of(left.with_current(FALSE_PSKS[0], NOW + 1)) == [Key.from_psk(FALSE_PSKS[0]), NEW_KEY]


def test_an_unknown_key_and_the_only_key_cannot_be_forgotten() -> None:
    with pytest.raises(ValueError, match=f"00000000 is not in the ring, which holds {KEY.fingerprint}"):
        ALONE.without("00000000")
    with pytest.raises(ValueError, match=f"{KEY.fingerprint} is the only key: change the record in DNS first"):
        ALONE.without(KEY.fingerprint)
    with pytest.raises(ValueError, match="holds no key"):
        Ring().without(KEY.fingerprint)


@pytest.mark.parametrize("key", [KEY, PREVIOUS_KEY, OLDEST_KEY], ids=["current", "previous", "oldest"])
def test_each_key_of_the_ring_verifies(key: Key) -> None:
    assert RING.verify(Purpose.REPORT, b"message", key.sign(Purpose.REPORT, b"message")) == key


def test_a_key_outside_the_ring_does_not_verify() -> None:
    with pytest.raises(BadSignature, match="none of the 3 keys for the purpose 'report'"):
        RING.verify(Purpose.REPORT, b"message", FOREIGN_KEY.sign(Purpose.REPORT, b"message"))


def test_a_key_that_left_no_longer_verifies() -> None:
    ring = RING.without(OLDEST_KEY.fingerprint)
    with pytest.raises(BadSignature):
        ring.verify(Purpose.REPORT, b"message", OLDEST_KEY.sign(Purpose.REPORT, b"message"))


def test_an_empty_ring_has_no_current_key() -> None:
    with pytest.raises(NoKey) as refusal:
        _ = Ring().current
    assert refusal.value.retry_after_seconds == 60


def test_an_empty_ring_refuses_with_no_key() -> None:
    with pytest.raises(NoKey):
        Ring().verify(Purpose.REPORT, b"message", KEY.sign(Purpose.REPORT, b"message"))


def test_a_use_is_recorded_for_one_key() -> None:
    ring = RING.with_use(PREVIOUS_KEY.fingerprint, NOW)
    assert [entry.last_used_at for entry in ring.entries] == [None, NOW, None]


def test_the_last_use_never_decreases() -> None:
    ring = RING.with_use(KEY.fingerprint, NOW).with_use(KEY.fingerprint, NOW - 1)
    assert ring.entries[0].last_used_at == NOW


def test_the_use_of_an_unknown_key_changes_nothing() -> None:
    assert RING.with_use(FOREIGN_KEY.fingerprint, NOW) == RING
