"""The ring file refreshed from a real DNS server: rotation, failures, and several processes."""

from __future__ import annotations

import itertools
import logging
import re
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kattila_keys.dns_server import DnsError
from kattila_keys.ring_file import RingFile, RingFileError
from kattila_protocol.errors import BadSignature, NoKey
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key
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
from support.waiting import PATIENCE_SECONDS, wait_for


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
    for now in (NOW, NOW + SECOND, NOW + HOUR - 1):
        keys.refresh_if_due(now)
        assert counting_proxy.udp_queries == 1
    knot.set_txt(label, NEW_PSK)
    keys.refresh_if_due(NOW + HOUR)
    assert counting_proxy.udp_queries == 2
    assert fingerprints(keys.ring()) == fingerprints_of(NEW_PSK, PSK)


def test_refresh_queries_dns_at_once(counting_proxy: DnsProxy, knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting_proxy.address, label)
    keys.refresh(NOW)
    knot.set_txt(label, NEW_PSK)
    assert fingerprints(keys.refresh_or_log(NOW + SECOND)) == fingerprints_of(NEW_PSK, PSK)
    knot.set_txt(label, THIRD_PSK)
    assert fingerprints(keys.refresh(NOW + 2 * SECOND)) == fingerprints_of(THIRD_PSK, NEW_PSK, PSK)
    assert counting_proxy.udp_queries == 3


def test_a_flapping_record_evicts_no_key(knot: Knot, label: str, path: Path) -> None:
    keys = keys_at(path, knot.address, label)
    for number, psk in enumerate([THIRD_PSK, PSK, NEW_PSK, PSK, NEW_PSK, PSK, NEW_PSK, PSK]):
        knot.set_txt(label, psk)
        keys.refresh(NOW + number * HOUR)
    assert fingerprints(keys.ring()) == fingerprints_of(PSK, NEW_PSK, THIRD_PSK)
    assert [entry.first_seen_at for entry in keys.ring().entries] == [NOW + HOUR, NOW + 2 * HOUR, NOW]


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


def test_the_file_says_since_when_a_key_is_the_current_one(knot: Knot, label: str, path: Path) -> None:
    keys = keys_at(path, knot.address, label)
    times = []
    for hours, psk in ((0, PSK), (2, PSK), (4, NEW_PSK), (6, NEW_PSK), (8, PSK)):
        knot.set_txt(label, psk)
        keys.refresh(NOW + hours * HOUR)
        times.append(RingFile(path).read().current_since)
    assert times == [NOW, NOW, NOW + 4 * HOUR, NOW + 4 * HOUR, NOW + 8 * HOUR]


def test_a_message_under_a_new_key_verifies_after_one_query(
    counting_proxy: DnsProxy, knot: Knot, label: str, path: Path
) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting_proxy.address, label)
    assert keys.verify(verify_as(PSK), NOW) == Key.from_psk(PSK)
    knot.set_txt(label, NEW_PSK)
    assert keys.verify(verify_as(NEW_PSK), NOW + MINUTE) == Key.from_psk(NEW_PSK)
    assert keys.verify(verify_as(PSK), NOW + MINUTE) == Key.from_psk(PSK)
    assert counting_proxy.udp_queries == 2


def test_bad_signatures_cause_at_most_one_query_a_minute(
    counting_proxy: DnsProxy, knot: Knot, label: str, path: Path
) -> None:
    knot.set_txt(label, PSK)
    # As two processes would have.
    both = [keys_at(path, counting_proxy.address, label) for _ in range(2)]
    for now in range(NOW, NOW + 2 * MINUTE, SECOND // 2):
        for keys in both:
            with pytest.raises(BadSignature):
                keys.verify(verify_as(NEW_PSK), now)
    assert counting_proxy.udp_queries == 2


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
    assert counting_proxy.udp_queries == 2


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
    assert counting_proxy.udp_queries == 4
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
        assert proxy.udp_queries == 1


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
    assert counting_proxy.udp_queries == 2


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


def test_the_use_of_a_key_is_written_once_a_minute(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    (fingerprint,) = fingerprints(keys.refresh(NOW))
    written = []
    for now in (NOW, NOW + 1, NOW + MINUTE - 1, NOW + MINUTE, NOW + MINUTE + 1, NOW + 2 * MINUTE):
        keys.record_use(fingerprint, now)
        written.append(RingFile(path).read().ring.entries[0].last_used_at)
    assert written == [NOW, NOW, NOW, NOW + MINUTE, NOW + MINUTE, NOW + 2 * MINUTE]


def test_the_use_of_an_unknown_key_is_not_written(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    keys.refresh(NOW)
    before = path.stat().st_ctime_ns
    keys.record_use(Key.from_psk(NEW_PSK).fingerprint, NOW)
    assert path.stat().st_ctime_ns == before


def test_a_refresh_keeps_the_last_use(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    keys.record_use(keys.refresh(NOW).current.fingerprint, NOW)
    knot.set_txt(label, NEW_PSK)
    assert [entry.last_used_at for entry in keys.refresh(NOW + HOUR).entries] == [None, NOW]


def test_a_damaged_file_costs_a_running_process_no_key(
    knot: Knot, label: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    keys.refresh(NOW)
    knot.set_txt(label, NEW_PSK)
    keys.refresh(NOW + HOUR)
    path.write_bytes(b'{"version":1,')
    for _ in range(3):
        assert fingerprints(keys.ring()) == fingerprints_of(NEW_PSK, PSK)
    assert len([message for message in caplog.messages if "is damaged" in message]) == 1
    # A query is due at once, although the last one was a second ago.
    keys.refresh_if_due(NOW + HOUR + SECOND)
    assert fingerprints(RingFile(path).read().ring) == fingerprints_of(NEW_PSK, PSK)
    assert fingerprints(keys.ring()) == fingerprints_of(NEW_PSK, PSK)
    assert keys.failure is None


def test_a_process_starts_with_a_damaged_file(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    path.write_bytes(b"")
    keys = keys_at(path, knot.address, label)
    assert keys.ring() == Ring()
    assert fingerprints(keys.refresh(NOW)) == fingerprints_of(PSK)


def test_a_write_failure_is_logged_once_and_only_refresh_raises_it(
    knot: Knot, label: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    (fingerprint,) = fingerprints(keys.refresh(NOW))
    # A file mode would not stop root. A folder in place of the temporary file does.
    obstacle = path.parent / "ring.json.new"
    obstacle.mkdir()
    caplog.clear()
    for hours in (2, 4, 6):
        keys.refresh_if_due(NOW + hours * HOUR)
        keys.record_use(fingerprint, NOW + hours * HOUR)
        assert keys.verify(verify_as(PSK), NOW + hours * HOUR) == Key.from_psk(PSK)
    assert len(caplog.records) == 1
    assert f"writing the key ring failed, the last good keys stay in use: cannot write {path}" in caplog.text
    with pytest.raises(RingFileError, match="cannot write"):
        keys.refresh(NOW + 8 * HOUR)
    obstacle.rmdir()
    # The next message does not retry the write, a message a minute later does.
    keys.record_use(fingerprint, NOW + 6 * HOUR + MINUTE - 1)
    assert RingFile(path).read().ring.entries[0].last_used_at is None
    keys.record_use(fingerprint, NOW + 6 * HOUR + MINUTE)
    assert RingFile(path).read().ring.entries[0].last_used_at == NOW + 6 * HOUR + MINUTE


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
        f"the current key is {first} (before: none)",
        f"the current key is {second} (before: {first})",
    ]
    other_process.ring()
    assert caplog.messages[2:] == [f"the current key is {second} (before: none)"]


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
