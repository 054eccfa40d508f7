"""A message under an unknown key makes a node query a real DNS server, but not too often."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kattila_protocol.errors import BadSignature, NoKey
from kattila_protocol.signing import Key
from support.dns_proxy import DnsProxy, dns_proxy
from support.keys import (
    MINUTE,
    NEW_PSK,
    NOW,
    PSK,
    SECOND,
    fingerprints,
    fingerprints_of,
    keys_at,
    verify_as,
)
from support.knot import Knot
from support.waiting import PATIENCE_SECONDS


def test_a_message_under_a_new_key_verifies_at_once(
    counting_proxy: DnsProxy, knot: Knot, label: str, path: Path
) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting_proxy.address, label)
    assert keys.verify(verify_as(PSK), NOW) == Key.from_psk(PSK)
    knot.set_txt(label, NEW_PSK)
    assert keys.verify(verify_as(NEW_PSK), NOW + MINUTE) == Key.from_psk(NEW_PSK)
    assert keys.verify(verify_as(PSK), NOW + MINUTE) == Key.from_psk(PSK)
    assert counting_proxy.udp_queries == 4


def test_bad_signatures_cause_at_most_one_query_a_minute(
    counting_proxy: DnsProxy, knot: Knot, label: str, path: Path
) -> None:
    knot.set_txt(label, PSK)
    # The first two are for the first key. As two processes would have.
    both = [keys_at(path, counting_proxy.address, label) for _ in range(2)]
    for now in range(NOW, NOW + 2 * MINUTE, SECOND // 2):
        for keys in both:
            with pytest.raises(BadSignature):
                keys.verify(verify_as(NEW_PSK), now)
    assert counting_proxy.udp_queries == 2 + 1


def test_an_unknown_key_of_a_known_sender_causes_a_query_at_once(
    counting_proxy: DnsProxy, knot: Knot, label: str, path: Path
) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting_proxy.address, label)
    tried = keys.refresh(NOW)
    knot.set_txt(label, NEW_PSK)
    with pytest.raises(BadSignature):
        keys.verify(verify_as(NEW_PSK), NOW + 2 * SECOND)
    assert keys.may_refresh(tried, NOW + 2 * SECOND, known_sender=True)
    assert keys.verify(verify_as(NEW_PSK), NOW + 2 * SECOND, known_sender=True) == Key.from_psk(NEW_PSK)
    assert counting_proxy.udp_queries == 4


@pytest.mark.parametrize("answers", [True, False])
def test_known_senders_cause_at_most_one_query_in_five_seconds(
    counting_proxy: DnsProxy, knot: Knot, label: str, path: Path, answers: bool
) -> None:
    if answers:
        knot.set_txt(label, PSK)
    # As three processes would have.
    all_keys = [keys_at(path, counting_proxy.address, label) for _ in range(3)]
    for now in range(NOW, NOW + 20 * SECOND, SECOND // 4):
        for keys in all_keys:
            with pytest.raises((BadSignature, NoKey)):
                keys.verify(verify_as(NEW_PSK), now, known_sender=True)
    assert counting_proxy.udp_queries == 4 + answers
    assert not all_keys[0].may_refresh(all_keys[0].ring(), NOW + 19 * SECOND, known_sender=answers)


def test_a_clock_that_was_set_back_does_not_stop_early_queries(
    counting_proxy: DnsProxy, knot: Knot, label: str, path: Path
) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting_proxy.address, label)
    keys.refresh_after_unknown(keys.ring(), NOW, known_sender=True)
    knot.set_txt(label, NEW_PSK)
    assert keys.refresh_after_unknown(keys.ring(), NOW - SECOND, known_sender=True) is not None


def test_a_known_sender_waits_for_the_query_of_another_process(knot: Knot, label: str, path: Path) -> None:
    arrived, proceed = threading.Event(), threading.Event()

    def slow(_: int, answer: bytes) -> bytes:
        arrived.set()
        proceed.wait(PATIENCE_SECONDS)
        return answer

    knot.set_txt(label, NEW_PSK)
    with dns_proxy(knot.port, slow) as proxy, ThreadPoolExecutor(2) as pool:
        one, other = (keys_at(path, proxy.address, label) for _ in range(2))
        first = pool.submit(one.verify, verify_as(NEW_PSK), NOW, known_sender=True)
        assert arrived.wait(PATIENCE_SECONDS)
        assert other.may_refresh(other.ring(), NOW + 1, known_sender=True)
        second = pool.submit(other.verify, verify_as(NEW_PSK), NOW + 1, known_sender=True)
        proceed.set()
        assert first.result() == second.result() == Key.from_psk(NEW_PSK)
        assert proxy.udp_queries == 2


def test_an_empty_ring_refuses_with_no_key(counting_proxy: DnsProxy, label: str, path: Path) -> None:
    keys = keys_at(path, counting_proxy.address, label)
    for now in (NOW, NOW + SECOND):
        with pytest.raises(NoKey):
            keys.verify(verify_as(PSK), now)
    assert counting_proxy.udp_queries == 1


def test_a_refused_sender_gets_a_ring_only_if_its_keys_changed(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    tried = keys.refresh(NOW)
    assert keys.refresh_after_unknown(tried, NOW + MINUTE) is None
    knot.set_txt(label, NEW_PSK)
    assert keys.refresh_after_unknown(tried, NOW + MINUTE + 1) is None
    fresh = keys.refresh_after_unknown(tried, NOW + 2 * MINUTE)
    assert fresh is not None
    assert fresh.current == Key.from_psk(NEW_PSK)


def test_a_key_found_by_another_process_needs_no_query(
    counting_proxy: DnsProxy, knot: Knot, label: str, path: Path
) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting_proxy.address, label)
    tried = keys.refresh(NOW)
    knot.set_txt(label, NEW_PSK)
    keys_at(path, counting_proxy.address, label).refresh(NOW + SECOND)
    fresh = keys.refresh_after_unknown(tried, NOW + 2 * SECOND)
    assert fresh is not None
    assert fingerprints(fresh) == fingerprints_of(NEW_PSK, PSK)
    assert counting_proxy.udp_queries == 4


def test_may_refresh_predicts_whether_a_refresh_could_help(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    assert keys.may_refresh(keys.ring(), NOW)
    tried = keys.refresh(NOW)
    assert not keys.may_refresh(tried, NOW + MINUTE - 1)
    assert keys.may_refresh(tried, NOW + MINUTE)
    knot.set_txt(label, NEW_PSK)
    keys.refresh(NOW + SECOND)
    assert keys.may_refresh(tried, NOW + SECOND + 1)
