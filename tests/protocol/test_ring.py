"""The key ring: which keys verify and sign, and their order during rotations."""

from __future__ import annotations

import pytest

from kattila_protocol.errors import BadSignature, NoKey
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose
from protocol.samples import FOREIGN_KEY, KEY, NOW, OLDEST_KEY, OLDEST_PSK, PREVIOUS_KEY, PREVIOUS_PSK, PSK, RING

FOURTH_PSK = b"example psk of the month to come"


def keys_of(ring: Ring) -> list[Key]:
    return [entry.key for entry in ring.entries]


def test_the_newest_key_is_first_and_signs() -> None:
    ring = Ring().with_current(OLDEST_PSK, 1).with_current(PREVIOUS_PSK, 2).with_current(PSK, 3)
    assert keys_of(ring) == [KEY, PREVIOUS_KEY, OLDEST_KEY]
    assert [entry.first_seen_at for entry in ring.entries] == [3, 2, 1]
    assert ring.current == KEY


def test_a_fourth_key_evicts_the_oldest() -> None:
    ring = RING.with_current(FOURTH_PSK, NOW + 1)
    assert keys_of(ring) == [Key.from_psk(FOURTH_PSK), KEY, PREVIOUS_KEY]


def test_flapping_between_two_records_evicts_no_key() -> None:
    ring = RING
    for number in range(1000):
        ring = ring.with_current(PREVIOUS_PSK if number % 2 == 0 else PSK, NOW + number)
    assert ring == RING


def test_the_current_key_again_changes_nothing() -> None:
    assert RING.with_current(PSK, NOW + 60_000) == RING


def test_a_known_key_moves_to_the_front_and_keeps_its_times() -> None:
    ring = RING.with_use(OLDEST_KEY.fingerprint, NOW + 5).with_current(OLDEST_PSK, NOW + 9)
    assert keys_of(ring) == [OLDEST_KEY, KEY, PREVIOUS_KEY]
    assert (ring.entries[0].first_seen_at, ring.entries[0].last_used_at) == (NOW - 2, NOW + 5)


@pytest.mark.parametrize("key", [KEY, PREVIOUS_KEY, OLDEST_KEY], ids=["current", "previous", "oldest"])
def test_each_key_of_the_ring_verifies(key: Key) -> None:
    assert RING.verify(Purpose.REPORT, b"message", key.sign(Purpose.REPORT, b"message")) == key


def test_a_key_outside_the_ring_does_not_verify() -> None:
    with pytest.raises(BadSignature, match="none of the 3 keys for the purpose 'report'"):
        RING.verify(Purpose.REPORT, b"message", FOREIGN_KEY.sign(Purpose.REPORT, b"message"))


def test_an_evicted_key_no_longer_verifies() -> None:
    ring = RING.with_current(FOURTH_PSK, NOW + 1)
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
