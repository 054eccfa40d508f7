"""Forged answers of DNS: a false key is not believed for long, and does not push the good one out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kattila_keys.refresh import Keys
from kattila_keys.ring_file import StoredRing
from kattila_protocol.errors import BadSignature
from kattila_protocol.signing import Key
from kattila_protocol.txt import TxtError
from support.dns_proxy import dns_proxy
from support.keys import HOUR, MINUTE, NEW_PSK, NOW, PSK, SECOND, THIRD_PSK, keys_at, verify_as
from support.knot import ZONE, Knot, running_knot
from support.manager import Manager, now_ms, running_manager
from support.reports import node, report, ring_of, sealed

DAY = 24 * HOUR
# As long as PSK, so that an answer can be forged byte for byte.
FALSE_PSK = b"FALSE-PSK, known to attackers"
FALSE_PSKS = [b"false psk number %d, for the attack" % number for number in range(9)]
LABEL = "attacked"
_labels = (f"{LABEL}{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def knot() -> Iterator[Knot]:
    with running_knot() as running:
        yield running


@pytest.fixture
def label() -> str:
    return next(_labels)


@pytest.fixture
def keys(knot: Knot, label: str, tmp_path: Path) -> Keys:
    """Return the keys of a node that has used the good key for a while."""
    keys = keys_at(tmp_path / "ring.json", knot.address, label)
    knot.set_txt(label, PSK)
    for now in (NOW - 90 * DAY, NOW - HOUR):
        keys.refresh(now)
    return keys


def believes(keys: Keys, psk: bytes) -> bool:
    """Return whether a message under this key verifies, without another query."""
    try:
        return verify_as(psk)(keys.ring()) == Key.from_psk(psk)
    except BadSignature:
        return False


def test_one_forged_answer_is_not_believed(knot: Knot, label: str, tmp_path: Path) -> None:
    knot.set_txt(label, PSK)
    forging = False

    def path(_: int, answer: bytes) -> bytes:
        nonlocal forging
        forged, forging = forging, False
        return answer.replace(PSK, FALSE_PSK) if forged else answer

    with dns_proxy(knot.port, path) as proxy:
        keys = keys_at(tmp_path / "ring.json", proxy.address, label)
        keys.refresh(NOW)
        forging = True
        keys.refresh_or_log(NOW + HOUR)
        assert not forging
        assert not believes(keys, FALSE_PSK)
        assert keys.ring().current == Key.from_psk(PSK)


def test_a_false_key_is_gone_with_the_next_honest_answer(knot: Knot, label: str, keys: Keys) -> None:
    knot.set_txt(label, FALSE_PSK)
    keys.refresh(NOW)
    knot.set_txt(label, PSK)
    keys.refresh(NOW + MINUTE)
    assert not believes(keys, FALSE_PSK)


def test_an_honest_answer_comes_within_two_minutes(knot: Knot, label: str, keys: Keys) -> None:
    knot.set_txt(label, FALSE_PSK)
    keys.refresh(NOW)
    knot.set_txt(label, PSK)
    for now in range(NOW, NOW + 2 * MINUTE + 1, 5 * SECOND):
        keys.refresh_if_due(now)
    assert not believes(keys, FALSE_PSK)


def test_three_false_keys_do_not_push_the_good_key_out(knot: Knot, label: str, keys: Keys) -> None:
    for number, psk in enumerate(FALSE_PSKS[:3]):
        knot.set_txt(label, psk)
        keys.refresh(NOW + number * HOUR)
    assert believes(keys, PSK)


def test_three_false_keys_do_not_push_a_key_out_that_was_seen_once(knot: Knot, label: str, tmp_path: Path) -> None:
    keys = keys_at(tmp_path / "ring.json", knot.address, label)
    for number, psk in enumerate([PSK, *FALSE_PSKS[:3]]):
        knot.set_txt(label, psk)
        keys.refresh(NOW + number * HOUR)
    assert believes(keys, PSK)


def test_many_false_keys_that_are_named_for_a_while_do_not_push_the_good_key_out(
    knot: Knot, label: str, keys: Keys
) -> None:
    for number, psk in enumerate(FALSE_PSKS):
        knot.set_txt(label, psk)
        for minutes in (0, 1, 2):
            keys.refresh(NOW + number * HOUR + minutes * MINUTE)
    assert believes(keys, PSK)


def test_false_keys_between_honest_answers_do_not_push_the_previous_key_out(knot: Knot, label: str, keys: Keys) -> None:
    # A node that was off still signs with the previous key.
    for number, psk in enumerate([NEW_PSK, NEW_PSK, *itertools.chain(*((psk, NEW_PSK) for psk in FALSE_PSKS))]):
        knot.set_txt(label, psk)
        keys.refresh(NOW + number * MINUTE)
    assert believes(keys, PSK)
    assert keys.ring().current == Key.from_psk(NEW_PSK)
    assert not any(believes(keys, psk) for psk in FALSE_PSKS)


def test_a_false_key_that_was_named_for_hours_expires_after_as_long(knot: Knot, label: str, keys: Keys) -> None:
    knot.set_txt(label, FALSE_PSK)
    for hours in range(5):
        keys.refresh(NOW + hours * HOUR)
    knot.set_txt(label, PSK)
    for hours in range(5, 10):
        keys.refresh(NOW + hours * HOUR)
    assert not believes(keys, FALSE_PSK)
    assert believes(keys, PSK)


def test_the_first_answer_of_a_node_was_forged(knot: Knot, label: str, tmp_path: Path) -> None:
    keys = keys_at(tmp_path / "ring.json", knot.address, label)
    knot.set_txt(label, FALSE_PSK)
    keys.refresh(NOW)
    knot.set_txt(label, PSK)
    for hours in range(1, 27):
        keys.refresh(NOW + hours * HOUR)
    assert not believes(keys, FALSE_PSK)


def test_a_key_that_dns_named_for_months_expires_after_30_days(knot: Knot, label: str, keys: Keys) -> None:
    knot.set_txt(label, NEW_PSK)
    for days in range(30):
        keys.refresh(NOW + days * DAY)
        assert believes(keys, PSK)
    keys.refresh(NOW + 30 * DAY)
    assert not believes(keys, PSK)


def test_a_record_without_the_prefix_is_refused_once_the_prefix_was_seen(
    knot: Knot, label: str, tmp_path: Path
) -> None:
    keys = keys_at(tmp_path / "ring.json", knot.address, label)
    knot.set_txt(label, b"kattila=" + PSK)
    keys.refresh(NOW)
    # As after somebody replaced the record by a site verification, or by nothing but a wildcard record.
    knot.set_txt(label, FALSE_PSK)
    keys.refresh_or_log(NOW + HOUR)
    assert not believes(keys, FALSE_PSK)
    assert keys.ring().current == Key.from_psk(PSK)
    with pytest.raises(TxtError, match="no TXT record starts with 'kattila=', as earlier ones did"):
        keys.refresh(NOW + 2 * HOUR)


def refresh_key(manager: Manager) -> None:
    """Run `refresh-key`, which reuses an answer that is less than a second old."""

    def aged(stored: StoredRing) -> StoredRing:
        queried_at = now_ms() - 2 * SECOND
        return replace(stored, asked_at=queried_at, answered_at=queried_at)

    manager.ring_file.update(aged)
    assert manager.command("refresh-key").returncode == 0


def test_a_manager_refuses_reports_under_a_false_key_and_takes_those_under_the_good_one(
    tmp_path: Path, knot: Knot, label: str
) -> None:
    knot.set_txt(label, PSK)
    good = ring_of(Key.from_psk(PSK))
    with running_manager(tmp_path, ring=good, DNS=f"{label}.{ZONE}", DNS_SERVER=knot.address) as manager:
        for psk in (*FALSE_PSKS[:3], PSK):
            knot.set_txt(label, psk)
            refresh_key(manager)
        for psk in FALSE_PSKS[:3]:
            assert manager.post(sealed(report(node(1), 1, now_ms()), Key.from_psk(psk))).status == 403
        assert manager.post(sealed(report(node(1), 1, now_ms()), Key.from_psk(PSK))).status == 200


def test_a_key_that_became_known_to_others_can_be_forgotten(tmp_path: Path, knot: Knot, label: str) -> None:
    knot.set_txt(label, NEW_PSK)
    ring = ring_of(Key.from_psk(NEW_PSK), Key.from_psk(THIRD_PSK))
    with running_manager(tmp_path, ring=ring, DNS=f"{label}.{ZONE}", DNS_SERVER=knot.address) as manager:
        manager.command("keys", "forget", Key.from_psk(THIRD_PSK).fingerprint)
        assert manager.post(sealed(report(node(1), 1, now_ms()), Key.from_psk(THIRD_PSK))).status == 403
        assert manager.post(sealed(report(node(1), 1, now_ms()), Key.from_psk(NEW_PSK))).status == 200
