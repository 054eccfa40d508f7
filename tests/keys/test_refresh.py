"""Ring file and DNS joined, against a real server: rotation, failure, several threads and processes."""

from __future__ import annotations

import logging
import re
import traceback
from pathlib import Path

import pytest

from kattila_keys.dns import DnsError
from kattila_keys.ring_file import RingFile, RingFileError
from kattila_protocol.errors import BadSignature, NoKey
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key
from kattila_protocol.txt import TxtError
from support.dns_proxy import DnsProxy
from support.keys import HOUR, MINUTE, NEW_PSK, NOW, PSK, SECOND, THIRD_PSK, fingerprints, keys_at, named, verification
from support.knot import Knot, running_knot


def test_psk_of_dns_is_the_ring_and_outlives_the_process(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    assert keys.ring() == Ring()
    assert fingerprints(keys.refresh(NOW)) == named(PSK)
    # A node that boots without DNS.
    assert fingerprints(keys_at(path, "127.0.0.1:9", label).ring()) == named(PSK)


def test_hourly_refresh(counting: DnsProxy, knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting.address, label)
    for now in (NOW, NOW + SECOND, NOW + HOUR - 1):
        keys.refresh_if_due(now)
        assert counting.asked_udp == 1
    knot.set_txt(label, NEW_PSK)
    keys.refresh_if_due(NOW + HOUR)
    assert counting.asked_udp == 2
    assert fingerprints(keys.ring()) == named(NEW_PSK, PSK)


def test_refresh_asks_at_once(counting: DnsProxy, knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting.address, label)
    keys.refresh(NOW)
    knot.set_txt(label, NEW_PSK)
    assert fingerprints(keys.refresh_or_log(NOW + SECOND)) == named(NEW_PSK, PSK)
    knot.set_txt(label, THIRD_PSK)
    assert fingerprints(keys.refresh(NOW + 2 * SECOND)) == named(THIRD_PSK, NEW_PSK, PSK)
    assert counting.asked_udp == 3


def test_record_that_flaps_pushes_nothing_out(knot: Knot, label: str, path: Path) -> None:
    keys = keys_at(path, knot.address, label)
    for number, psk in enumerate([THIRD_PSK, PSK, NEW_PSK, PSK, NEW_PSK, PSK, NEW_PSK, PSK]):
        knot.set_txt(label, psk)
        keys.refresh(NOW + number * HOUR)
    assert fingerprints(keys.ring()) == named(PSK, NEW_PSK, THIRD_PSK)
    assert [entry.first_seen_at for entry in keys.ring().entries] == [NOW + HOUR, NOW + 2 * HOUR, NOW]


def test_dns_going_down_keeps_the_ring_and_is_told_once(
    label: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kattila.keys")
    with running_knot({label: [PSK]}) as knot:
        keys = keys_at(path, knot.address, label, seconds=0.6)
        keys.refresh_if_due(NOW)
        knot.stop()
        caplog.clear()
        for hours in (2, 4, 6):
            keys.refresh_if_due(NOW + hours * HOUR)
            assert fingerprints(keys.ring()) == named(PSK)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "asking DNS for the PSK failed, the last good keys stay in use: no answer for" in caplog.text
        assert "no answer for" in (keys.failure or "")
        with pytest.raises(DnsError, match="is the resolver up"):
            keys.refresh(NOW + 7 * HOUR)
        assert fingerprints(keys.refresh_or_log(NOW + 8 * HOUR)) == named(PSK)
        assert len(caplog.records) == 1

        knot.start()
        keys.refresh_if_due(NOW + 10 * HOUR)
        assert keys.failure is None
        assert caplog.messages[1:] == ["asking DNS for the PSK works again"]


def test_failure_is_retried_within_two_minutes(knot: Knot, label: str, path: Path) -> None:
    keys = keys_at(path, knot.address, label)
    keys.refresh_if_due(NOW)
    assert "does not exist" in (keys.failure or "")
    knot.set_txt(label, PSK)
    keys.refresh_if_due(NOW + MINUTE)
    assert fingerprints(keys.ring()) == []
    keys.refresh_if_due(NOW + 2 * MINUTE)
    assert fingerprints(keys.ring()) == named(PSK)
    assert keys.failure is None


def test_failure_that_another_process_overcame_is_over(knot: Knot, label: str, path: Path) -> None:
    keys = keys_at(path, knot.address, label)
    keys.refresh_if_due(NOW)
    assert keys.failure is not None
    knot.set_txt(label, PSK)
    keys_at(path, knot.address, label).refresh(NOW + MINUTE)
    assert fingerprints(keys.ring()) == named(PSK)
    assert keys.failure is None


def test_unusable_record_keeps_the_ring(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    keys.refresh(NOW)
    knot.set_txt(label, PSK, NEW_PSK)
    with pytest.raises(TxtError, match="2 TXT records could be the PSK"):
        keys.refresh(NOW + HOUR)
    assert fingerprints(keys.refresh_or_log(NOW + 2 * HOUR)) == named(PSK)
    assert set(named(PSK, NEW_PSK)) <= set(re.findall("[0-9a-f]{8}", keys.failure or ""))


def test_unknown_signature_is_verified_after_one_question(
    counting: DnsProxy, knot: Knot, label: str, path: Path
) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting.address, label)
    assert keys.verify(verification(PSK), NOW) == Key.from_psk(PSK)
    knot.set_txt(label, NEW_PSK)
    assert keys.verify(verification(NEW_PSK), NOW + MINUTE) == Key.from_psk(NEW_PSK)
    assert keys.verify(verification(PSK), NOW + MINUTE) == Key.from_psk(PSK)
    assert counting.asked_udp == 2


def test_strangers_make_us_ask_once_a_minute_at_most(counting: DnsProxy, knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    # Two processes' worth.
    some = [keys_at(path, counting.address, label) for _ in range(2)]
    for now in range(NOW, NOW + 2 * MINUTE, SECOND // 2):
        for keys in some:
            with pytest.raises(BadSignature):
                keys.verify(verification(NEW_PSK), now)
    assert counting.asked_udp == 2


def test_empty_ring_refuses_for_want_of_a_key(counting: DnsProxy, label: str, path: Path) -> None:
    keys = keys_at(path, counting.address, label)
    for now in (NOW, NOW + SECOND):
        with pytest.raises(NoKey):
            keys.verify(verification(PSK), now)
    assert counting.asked_udp == 1


def test_refused_sender_learns_whether_it_has_another_key(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    tried = keys.refresh(NOW)
    assert keys.refresh_after_unknown(tried, NOW + MINUTE) is None
    knot.set_txt(label, NEW_PSK)
    assert keys.refresh_after_unknown(tried, NOW + MINUTE + 1) is None
    fresh = keys.refresh_after_unknown(tried, NOW + 2 * MINUTE)
    assert fresh is not None
    assert fresh.current == Key.from_psk(NEW_PSK)


def test_key_that_another_process_found_is_used_without_a_question(
    counting: DnsProxy, knot: Knot, label: str, path: Path
) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, counting.address, label)
    tried = keys.refresh(NOW)
    knot.set_txt(label, NEW_PSK)
    keys_at(path, counting.address, label).refresh(NOW + SECOND)
    fresh = keys.refresh_after_unknown(tried, NOW + 2 * SECOND)
    assert fresh is not None
    assert fingerprints(fresh) == named(NEW_PSK, PSK)
    assert counting.asked_udp == 2


def test_worth_of_a_refresh_is_known_without_asking(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    assert keys.may_refresh(keys.ring(), NOW)
    tried = keys.refresh(NOW)
    assert not keys.may_refresh(tried, NOW + MINUTE - 1)
    assert keys.may_refresh(tried, NOW + MINUTE)
    knot.set_txt(label, NEW_PSK)
    keys.refresh(NOW + SECOND)
    assert keys.may_refresh(tried, NOW + SECOND + 1)


def test_use_is_noted_once_a_minute(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    (fingerprint,) = fingerprints(keys.refresh(NOW))
    written = []
    for now in (NOW, NOW + 1, NOW + MINUTE - 1, NOW + MINUTE, NOW + MINUTE + 1):
        keys.note_used(fingerprint, now)
        written.append(RingFile(path).read().ring.entries[0].last_used_at)
    assert written == [NOW, NOW, NOW, NOW + MINUTE, NOW + MINUTE]
    assert keys.use_is_due(fingerprint, NOW + 2 * MINUTE)
    assert not keys.use_is_due(fingerprint, NOW + 2 * MINUTE - 1)


def test_use_of_an_unknown_key_is_not_noted(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    keys.refresh(NOW)
    before = path.stat().st_ctime_ns
    keys.note_used(Key.from_psk(NEW_PSK).fingerprint, NOW)
    assert path.stat().st_ctime_ns == before


def test_refresh_keeps_the_last_use(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    keys.note_used(keys.refresh(NOW).current.fingerprint, NOW)
    knot.set_txt(label, NEW_PSK)
    assert [entry.last_used_at for entry in keys.refresh(NOW + HOUR).entries] == [None, NOW]


def test_damaged_file_costs_a_running_process_nothing(
    knot: Knot, label: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    keys.refresh(NOW)
    knot.set_txt(label, NEW_PSK)
    keys.refresh(NOW + HOUR)
    path.write_bytes(b'{"version":1,')
    for _ in range(3):
        assert fingerprints(keys.ring()) == named(NEW_PSK, PSK)
    assert len([message for message in caplog.messages if "is damaged" in message]) == 1
    # The question is due at once, whenever the last one was.
    keys.refresh_if_due(NOW + HOUR + SECOND)
    assert fingerprints(RingFile(path).read().ring) == named(NEW_PSK, PSK)
    assert fingerprints(keys.ring()) == named(NEW_PSK, PSK)
    assert keys.failure is None


def test_damaged_file_does_not_keep_a_process_from_starting(knot: Knot, label: str, path: Path) -> None:
    knot.set_txt(label, PSK)
    path.write_bytes(b"")
    keys = keys_at(path, knot.address, label)
    assert keys.ring() == Ring()
    assert fingerprints(keys.refresh(NOW)) == named(PSK)


def test_file_that_cannot_be_written_is_told_once_and_never_raised_behind_the_scenes(
    knot: Knot, label: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    knot.set_txt(label, PSK)
    keys = keys_at(path, knot.address, label)
    (fingerprint,) = fingerprints(keys.refresh(NOW))
    # No mode stops root, a folder in the place of the new file stops everybody.
    (path.parent / "ring.json.new").mkdir()
    caplog.clear()
    for hours in (2, 4, 6):
        keys.refresh_if_due(NOW + hours * HOUR)
        keys.note_used(fingerprint, NOW + hours * HOUR)
        # Not tried again with the next message.
        assert not keys.use_is_due(fingerprint, NOW + hours * HOUR + 1)
        assert keys.verify(verification(PSK), NOW + hours * HOUR) == Key.from_psk(PSK)
    assert len(caplog.records) == 1
    assert f"writing the ring failed, the last good keys stay in use: cannot write {path}" in caplog.text
    with pytest.raises(RingFileError, match="cannot write"):
        keys.refresh(NOW + 8 * HOUR)


def test_new_current_key_is_logged_by_fingerprint(
    knot: Knot, label: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kattila.keys")
    knot.set_txt(label, PSK)
    keys, beside = (keys_at(path, knot.address, label) for _ in range(2))
    keys.refresh(NOW)
    knot.set_txt(label, NEW_PSK)
    keys.refresh(NOW + HOUR)
    (first,), (second,) = named(PSK), named(NEW_PSK)
    assert caplog.messages == [
        f"the current key is {first} (before: none)",
        f"the current key is {second} (before: {first})",
    ]
    beside.ring()
    assert caplog.messages[2:] == [f"the current key is {second} (before: none)"]


def test_psk_is_never_logged_shown_or_traced(
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
        keys.verify(verification(THIRD_PSK), NOW)
    traces.append("".join(traceback.format_exception(caught.value)))
    assert len(traces) == 6
    shown = caplog.text + "".join(traces) + repr(keys.ring()) + repr(RingFile(path).read()) + str(keys.failure)
    assert set(named(PSK, NEW_PSK)) <= set(re.findall("[0-9a-f]{8}", shown))
    for secret in (PSK, NEW_PSK, THIRD_PSK, PSK[:12]):
        # The source lines of a trace name constants, never values.
        assert secret.decode() not in shown
        assert secret.hex() not in shown
