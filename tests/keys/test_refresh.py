"""The ring file refreshed from a real DNS server: schedule, rotation, failures."""

from __future__ import annotations

import itertools
import logging
import re
import traceback
from pathlib import Path

import pytest

from kattila_keys.dns_server import DnsError
from kattila_keys.ring_file import RingFile
from kattila_protocol.errors import BadSignature
from kattila_protocol.ring import Ring
from kattila_protocol.txt import TxtError
from support.dns_proxy import DnsProxy, dns_proxy
from support.keys import (
    HOUR,
    MINUTE,
    NEW_PSK,
    NOW,
    PSK,
    SECOND,
    THIRD_PSK,
    fingerprints,
    fingerprints_of,
    keys_at,
    verify_as,
)
from support.knot import Knot, running_knot
from support.waiting import wait_for


def test_the_psk_from_dns_survives_a_restart(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    assert keys.ring() == Ring()
    assert fingerprints(keys.refresh(NOW)) == fingerprints_of(PSK)
    # A restart while DNS is down.
    assert fingerprints(keys_at(path, "127.0.0.1:9", label).ring()) == fingerprints_of(PSK)


def test_dns_is_queried_once_an_hour(counting_proxy: DnsProxy, knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting_proxy.address, label)
    # A new key takes two queries, and a third after a minute or two.
    for now, queries in ((0, 2), (SECOND, 2), (MINUTE, 2), (2 * MINUTE, 3), (HOUR, 3), (HOUR + 2 * MINUTE - 1, 3)):
        keys.refresh_if_due(NOW + now)
        assert counting_proxy.udp_queries == queries
    knot.set_txt(label, NEW_PSK)
    keys.refresh_if_due(NOW + HOUR + 2 * MINUTE)
    assert counting_proxy.udp_queries == 5
    assert fingerprints(keys.ring()) == fingerprints_of(NEW_PSK, PSK)


def test_refresh_queries_dns_at_once(counting_proxy: DnsProxy, knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting_proxy.address, label)
    keys.refresh(NOW)
    knot.set_txt(label, NEW_PSK)
    assert fingerprints(keys.refresh_or_log(NOW + SECOND)) == fingerprints_of(NEW_PSK, PSK)
    knot.set_txt(label, THIRD_PSK)
    assert fingerprints(keys.refresh(NOW + 2 * SECOND)) == fingerprints_of(THIRD_PSK, PSK)
    assert counting_proxy.udp_queries == 6


def test_a_flapping_record_evicts_no_proven_key(knot: Knot, label: str, path: Path) -> None:
    keys = keys_at(path, knot.address, label)
    for number, psk in enumerate([THIRD_PSK, PSK, PSK, NEW_PSK, NEW_PSK, PSK, NEW_PSK, PSK, NEW_PSK, PSK]):
        knot.set_txt(label, psk)
        keys.refresh(NOW + number * MINUTE)
    assert fingerprints(keys.ring()) == fingerprints_of(PSK, NEW_PSK, THIRD_PSK)
    assert [entry.first_seen_at for entry in keys.ring().entries] == [NOW + MINUTE, NOW + 3 * MINUTE, NOW]


def test_a_dns_outage_keeps_the_ring_and_is_logged_once(
    label: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kattila.keys")
    with running_knot({label: [PSK]}) as knot:
        keys, moments = keys_at(path, knot.address, label, seconds=0.6), itertools.count(NOW, 2 * HOUR)

        def works() -> bool:
            keys.refresh_if_due(next(moments))
            return keys.failure is None

        wait_for(works, "an answer of the server")
        knot.stop()
        caplog.clear()
        for _ in range(3):
            keys.refresh_if_due(next(moments))
            assert fingerprints(keys.ring()) == fingerprints_of(PSK)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "querying DNS for the PSK failed, the last good keys stay in use: no answer for" in caplog.text
        assert "no answer for" in (keys.failure or "")
        with pytest.raises(DnsError, match="is the resolver up"):
            keys.refresh(next(moments))
        assert fingerprints(keys.refresh_or_log(next(moments))) == fingerprints_of(PSK)
        assert len(caplog.records) == 1

        knot.start()
        wait_for(works, "an answer of the restarted server")
        assert caplog.messages[1:] == ["querying DNS for the PSK works again"]


def test_a_failed_query_is_retried_within_two_minutes(knot: Knot, label: str, path: Path) -> None:
    keys = keys_at(path, knot.address, label)
    keys.refresh_if_due(NOW)
    assert "does not exist" in (keys.failure or "")
    knot.set_txt(label, PSK)
    keys.refresh_if_due(NOW + MINUTE)
    assert fingerprints(keys.ring()) == []
    keys.refresh_if_due(NOW + 2 * MINUTE)
    assert fingerprints(keys.ring()) == fingerprints_of(PSK)
    assert keys.failure is None


def test_the_success_of_another_process_clears_the_failure(knot: Knot, label: str, path: Path) -> None:
    keys = keys_at(path, knot.address, label)
    keys.refresh_if_due(NOW)
    assert keys.failure is not None
    knot.set_txt(label, PSK)
    keys_at(path, knot.address, label).refresh(NOW + MINUTE)
    assert fingerprints(keys.ring()) == fingerprints_of(PSK)
    assert keys.failure is None


def test_an_unusable_record_keeps_the_ring(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    keys.refresh(NOW)
    knot.set_txt(label, PSK, NEW_PSK)
    with pytest.raises(TxtError, match="2 TXT records could be the PSK"):
        keys.refresh(NOW + HOUR)
    assert fingerprints(keys.refresh_or_log(NOW + 2 * HOUR)) == fingerprints_of(PSK)
    assert set(fingerprints_of(PSK, NEW_PSK)) <= set(re.findall("[0-9a-f]{8}", keys.failure or ""))


@pytest.mark.parametrize("prefix", [b"", b"kattila="])
def test_an_ambiguous_record_is_stored_until_it_is_not(knot: Knot, label: str, path: Path, prefix: bytes) -> None:
    keys = keys_at(path, knot.address, label)

    def stored_after(hours: int, *records: bytes) -> tuple[list[str], int | None]:
        knot.set_txt(label, *(prefix + record for record in records))
        keys.refresh_if_due(NOW + hours * HOUR)
        stored = RingFile(path).read()
        return sorted(stored.candidates), stored.ambiguous_since

    assert stored_after(0, PSK, NEW_PSK) == (sorted(fingerprints_of(PSK, NEW_PSK)), NOW)
    three = sorted(fingerprints_of(PSK, NEW_PSK, THIRD_PSK))
    assert stored_after(2, PSK, NEW_PSK, THIRD_PSK) == (three, NOW)
    assert stored_after(4, PSK) == ([], None)
    assert stored_after(6, PSK, NEW_PSK) == (sorted(fingerprints_of(PSK, NEW_PSK)), NOW + 6 * HOUR)
    assert stored_after(8, b"too short") == ([], None)
    assert fingerprints(keys.ring()) == fingerprints_of(PSK)


def test_a_key_on_trial_does_not_make_the_prefix_necessary(knot: Knot, label: str, path: Path) -> None:
    keys = keys_at(path, knot.address, label)
    for now, record in ((NOW, PSK), (NOW + HOUR, b"kattila=" + NEW_PSK), (NOW + HOUR + SECOND, THIRD_PSK)):
        knot.set_txt(label, record)
        keys.refresh(now)
    assert fingerprints(keys.ring()) == fingerprints_of(THIRD_PSK, PSK)


def test_a_record_that_loses_its_prefix_still_names_a_key_of_the_ring(knot: Knot, label: str, path: Path) -> None:
    keys = keys_at(path, knot.address, label)
    for number, record in enumerate([b"kattila=" + PSK, b"kattila=" + NEW_PSK, PSK]):
        knot.set_txt(label, record)
        keys.refresh(NOW + number * HOUR)
    assert fingerprints(keys.ring()) == fingerprints_of(PSK)


def test_two_different_new_keys_in_a_row_are_not_believed(knot: Knot, label: str, path: Path) -> None:
    def path_of(number: int, answer: bytes) -> bytes:
        return answer.replace(PSK, b"example psk %d that nobody uses"[: len(PSK) + 1] % number)

    knot.set_txt(label, PSK)
    with dns_proxy(knot.port, path_of) as proxy, pytest.raises(TxtError, match="does somebody forge answers"):
        keys_at(path, proxy.address, label).refresh(NOW)
    assert RingFile(path).read().ring == Ring()


def test_the_file_says_since_when_a_key_is_the_current_one(knot: Knot, label: str, path: Path) -> None:
    keys = keys_at(path, knot.address, label)
    times = []
    for hours, psk in ((0, PSK), (2, PSK), (4, NEW_PSK), (6, NEW_PSK), (8, PSK)):
        knot.set_txt(label, psk)
        keys.refresh(NOW + hours * HOUR)
        times.append(RingFile(path).read().current_since)
    assert times == [NOW, NOW, NOW + 4 * HOUR, NOW + 4 * HOUR, NOW + 8 * HOUR]


def test_a_new_current_key_is_logged_by_its_fingerprint(
    knot: Knot, label: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kattila.keys")
    knot.set_txt(label, PSK)
    keys, other_process = (keys_at(path, knot.address, label) for _ in range(2))
    keys.refresh(NOW)
    knot.set_txt(label, NEW_PSK)
    keys.refresh(NOW + HOUR)
    (first,), (second,) = fingerprints_of(PSK), fingerprints_of(NEW_PSK)
    assert caplog.messages == [
        f"the current key is {first}",
        f"the current key is {second} (before: {first})",
    ]
    other_process.ring()
    assert caplog.messages[2:] == [f"the current key is {second}"]


def test_the_psk_is_in_no_log_no_text_and_no_traceback(
    knot: Knot, label: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    traces = []
    keys = keys_at(path, knot.address, label)
    for number, records in enumerate(
        [[PSK], [NEW_PSK], [PSK, NEW_PSK], [b"kattila=" + PSK, b"kattila=" + NEW_PSK], [PSK[:12]], [PSK + b"\xff"], []]
    ):
        knot.set_txt(label, *records)
        try:
            keys.refresh(NOW + number * HOUR)
        except (DnsError, TxtError):
            traces.append(traceback.format_exc())
        keys.refresh_or_log(NOW + number * HOUR + SECOND)
    with pytest.raises(BadSignature) as caught:
        keys.verify(verify_as(THIRD_PSK), NOW)
    traces.append("".join(traceback.format_exception(caught.value)))
    assert len(traces) == 6
    shown = caplog.text + "".join(traces) + repr(keys.ring()) + repr(RingFile(path).read()) + str(keys.failure)
    assert set(fingerprints_of(PSK, NEW_PSK)) <= set(re.findall("[0-9a-f]{8}", shown))
    for secret in (PSK, NEW_PSK, THIRD_PSK, PSK[:12]):
        # A traceback quotes source lines, which name constants and no values.
        assert secret.decode() not in shown
        assert secret.hex() not in shown
