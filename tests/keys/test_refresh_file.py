"""What Keys write to the ring file, and what happens if they cannot, or if it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from kattila_keys.ring_file import RingFile, RingFileError
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key
from support.keys import (
    HOUR,
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
