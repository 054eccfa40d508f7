"""No failure ends a refresh of the keys: it is logged once without the PSK, tried again, and its end is logged."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from kattila_keys.dns_server import DnsError, TxtRecords
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile
from kattila_protocol.txt import TxtError
from support.keys import HOUR, NEW_PSK, NOW, PSK, fingerprints, fingerprints_of, verify_as

FAILURES = [
    ValueError(f"nameserver {PSK.decode()} is not a dns.nameserver.Nameserver instance"),
    UnicodeDecodeError("utf-8", PSK, 0, 1, PSK.decode()),
    OSError(errno.EMFILE, "Too many open files"),
    ImportError("No module named 'dns'"),
    MemoryError(),
    RecursionError(PSK.decode()),
    KeyError(PSK),
    DnsError("the resolver does not answer"),
    TxtError("the PSK has 1 byte"),
]


class Source:
    """A source of the PSK that a test can break."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.queries = 0
        self.psk = PSK

    def query(self) -> TxtRecords:
        self.queries += 1
        if self.error is not None:
            raise self.error
        return ((self.psk,),)


def refresh_if_due(keys: Keys, now: int) -> None:
    keys.refresh_if_due(now)


def refresh_or_log(keys: Keys, now: int) -> None:
    keys.refresh_or_log(now)


def refresh_after_unknown(keys: Keys, now: int) -> None:
    keys.refresh_after_unknown(keys.ring(), now)


@pytest.mark.parametrize("refresh", [refresh_if_due, refresh_or_log, refresh_after_unknown])
@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_every_failure_of_a_query_is_logged_once_and_survived(
    refresh: Callable[[Keys, int], None], error: Exception, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kattila.keys")
    source = Source()
    keys = Keys(RingFile(path), source.query, lambda: 0.5)
    refresh(keys, NOW)
    caplog.clear()
    source.error, source.psk = error, NEW_PSK
    for hour in (2, 4, 6):
        refresh(keys, NOW + hour * HOUR)
        assert fingerprints(keys.ring()) == fingerprints_of(PSK)
        assert keys.verify(verify_as(PSK), NOW + hour * HOUR).psk == PSK
    assert source.queries == 2 + 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "failed, the last good keys stay in use: " in caplog.text
    assert PSK.decode() not in caplog.text
    assert len(keys.failure or "") > 0
    source.error = None
    refresh(keys, NOW + 8 * HOUR)
    assert fingerprints(keys.ring()) == fingerprints_of(NEW_PSK, PSK)
    assert keys.failure is None
    assert [message for message in caplog.messages if "works again" in message] != []


def test_every_failure_to_write_is_survived(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kattila.keys")
    source = Source()
    keys = Keys(RingFile(path), source.query, lambda: 0.5)
    keys.refresh_or_log(NOW)
    caplog.clear()
    # Also for root, no file can be created where a folder stands.
    path.with_name("ring.json.new").mkdir()
    for _ in range(3):
        keys.refresh_if_due(NOW + 2 * HOUR)
        keys.record_use(fingerprints_of(PSK)[0], NOW + 2 * HOUR)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    path.with_name("ring.json.new").rmdir()
    source.psk = NEW_PSK
    keys.refresh_if_due(NOW + 2 * HOUR)
    assert fingerprints(keys.ring()) == fingerprints_of(NEW_PSK, PSK)
    assert "writing the key ring works again" in caplog.messages
