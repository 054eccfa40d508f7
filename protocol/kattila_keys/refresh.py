"""Decides when to query DNS for the PSK, across all processes that share one ring file, and handles failures."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from kattila_keys.dns_server import DnsError, TxtRecords
from kattila_keys.ring_file import RingFile, RingFileDamagedError, RingFileError, StoredRing
from kattila_protocol.errors import BadSignature, NoKey
from kattila_protocol.ring import Ring, RingEntry, Standing
from kattila_protocol.txt import AmbiguousError, TxtError, has_prefix, select_psk
from kattila_settings.failures import Failures, described

# Hourly, spread over 54 to 66 minutes, so that nodes that started together do not query DNS together.
REFRESH_MS = 60 * 60 * 1000
_SPREAD = 0.2
# The shortest time between two queries, however many messages arrive that no key verifies.
RETRY_MS = 60 * 1000
# The shortest time between two early queries for known senders whose key is unknown, as during a rotation.
URGENT_MS = 5 * 1000
# Processes that refresh within this time share one query, such as the workers of one server after SIGHUP.
COALESCE_MS = 1000
# The precision of a key's last use, so that verifying a message rarely writes a file.
USE_PRECISION_MS = 60 * 1000

_log = logging.getLogger("kattila.keys")

# What can fail. Each is logged when it starts to fail and when it works again.
_QUERY = "querying DNS for the PSK"
_READ = "reading the key ring"
_WRITE = "writing the key ring"
_REFRESH = "refreshing the keys"

_Result = TypeVar("_Result")


def due_at(stored: StoredRing, jitter: float) -> int:
    """Return when the next scheduled query is due (ms UTC); `jitter` is a fraction from 0 to 1.

    54 to 66 minutes after a good answer, 1 to 2 minutes after a failure or while only one answer has named the current
    key, and 0 before the first query.
    """
    if stored.asked_at is None:
        return 0
    if stored.answered_at == stored.asked_at and all(entry.is_confirmed for entry in stored.ring.entries[:1]):
        return stored.asked_at + int(REFRESH_MS * (1 - _SPREAD / 2 + _SPREAD * jitter))
    return stored.asked_at + int(RETRY_MS * (1 + jitter))


def is_due(stored: StoredRing, jitter: float, now: int) -> bool:
    """Return whether the scheduled query is due, or the clock was set back behind the last query."""
    return now >= due_at(stored, jitter) or _was_set_back(stored.asked_at, now)


def may_retry(asked_at: int | None, now: int) -> bool:
    """Return whether the last query is a minute old, or the clock was set back behind it."""
    return asked_at is None or now - asked_at >= RETRY_MS or _was_set_back(asked_at, now)


def may_hurry(urgent_at: int | None, now: int) -> bool:
    """Return whether the last early query is 5 seconds old, or the clock was set back behind it."""
    return urgent_at is None or not 0 <= now - urgent_at < URGENT_MS


def _is_in_progress(stored: StoredRing, now: int) -> bool:
    is_unanswered = stored.asked_at is not None and stored.asked_at != stored.answered_at
    return is_unanswered and 0 <= now - (stored.asked_at or 0) < URGENT_MS


def _was_set_back(asked_at: int | None, now: int) -> bool:
    # A smaller difference means that another process read the clock a moment later.
    return asked_at is not None and asked_at - now >= RETRY_MS


def _was_just_queried(stored: StoredRing, now: int) -> bool:
    return stored.asked_at is not None and abs(now - stored.asked_at) < COALESCE_MS


class Keys:
    """The key ring of this node, refreshed from DNS.

    Safe for several threads, and for several processes that share the file. `ring` and `may_refresh` cost one stat and
    may run in an event loop. All other methods may block for DNS or for an fsync: an event loop should run them in one
    thread, so that all callers wait for the query in progress and use its answer.
    """

    def __init__(self, file: RingFile, query: Callable[[], TxtRecords], jitter: Callable[[], float]) -> None:
        """Take the ring file, a DNS query (`query_txt` bound to a name), and a source of random numbers in 0..1."""
        self._file = file
        self._query = query
        self._draw_jitter = jitter
        self._jitter = jitter()
        self._lock = threading.Lock()
        self._is_querying = False
        self._logged_key: str | None = None
        self._failures = Failures(_log)
        self._used_at: dict[str, int] = {}

    @property
    def failure(self) -> str | None:
        """The current failures of DNS and of the file, for a health check; None if there are none."""
        return "; ".join(self._failures.texts) or None

    def ring(self) -> Ring:
        """Return the ring that any process wrote last. Never raises; empty until the first answer from DNS.

        If the file becomes unreadable, this returns the ring that this process read last.
        """
        ring = self._stored().ring
        current = ring.entries[0].key.fingerprint if ring.entries else None
        if current != self._logged_key:
            self._log_current(current)
        return ring

    def refresh(self, now: int) -> Ring:
        """Query DNS now and return the new ring. For commands: a failure is raised, not logged.

        Waits for a query in progress. An answer that is less than a second old is used instead of a new query.

        Raises:
            DnsError, TxtError: DNS gave no usable PSK; the last good ring stays in use.
            RingFileError: the ring cannot be written.
        """
        with self._file.query_lock(wait=True):
            stored = self._stored()
            if stored.answered_at != stored.asked_at or not _was_just_queried(stored, now):
                self._query_and_store(now)
        return self.ring()

    def refresh_or_log(self, now: int) -> Ring:
        """Query DNS now, log a failure, and return the last good ring. For the start of a daemon and for SIGHUP.

        If several workers call this together, only one sends a query, even if DNS fails.
        """
        self._query_if(lambda stored: not _was_just_queried(stored, now), now, wait=True)
        return self.ring()

    def refresh_if_due(self, now: int) -> None:
        """Query DNS if the hour, or the minute after a failure, is over. Never raises; call it every few seconds."""
        self._query_if(lambda stored: is_due(stored, self._jitter, now), now)

    def refresh_after_unknown(self, tried: Ring, now: int, *, known_sender: bool = False) -> Ring | None:
        """Query DNS after a MAC matched no key of `tried`, or after a refusal for that reason. Never raises.

        Sends at most one query a minute, but for a known sender another one at once, at most every 5 seconds. For a
        known sender it also waits for the query of another process. Returns the ring if its keys or their order now
        differ from `tried`, else None.
        """

        def is_needed(stored: StoredRing) -> bool:
            if _fingerprints(stored.ring) != _fingerprints(tried):
                return False
            return may_retry(stored.asked_at, now) or (known_sender and may_hurry(stored.urgent_at, now))

        if _fingerprints(self.ring()) == _fingerprints(tried):
            self._query_if(is_needed, now, wait=known_sender, is_urgent=known_sender)
        fresh = self.ring()
        return None if _fingerprints(fresh) == _fingerprints(tried) else fresh

    def may_refresh(self, tried: Ring, now: int, *, known_sender: bool = False) -> bool:
        """Return whether `refresh_after_unknown` could return a ring; costs one stat.

        True while a query of this process is in progress: during a rotation many messages under the new key arrive in
        that time, and those that wait for the answer are verified instead of refused.
        """
        stored = self._stored()
        if known_sender and (may_hurry(stored.urgent_at, now) or _is_in_progress(stored, now)):
            return True
        return (
            self._is_querying or _fingerprints(stored.ring) != _fingerprints(tried) or may_retry(stored.asked_at, now)
        )

    def verify(self, operation: Callable[[Ring], _Result], now: int, *, known_sender: bool = False) -> _Result:
        """Return `operation(ring)`; if no key matches, retry once with the ring of `refresh_after_unknown`.

        Raises whatever `operation` raises; BadSignature and NoKey only if no fresh ring helps.
        """
        tried = self.ring()
        try:
            return operation(tried)
        except (BadSignature, NoKey) as refusal:
            return self.verify_again(operation, tried, refusal, now, known_sender=known_sender)

    def verify_again(
        self,
        operation: Callable[[Ring], _Result],
        tried: Ring,
        refusal: BadSignature | NoKey,
        now: int,
        *,
        known_sender: bool = False,
    ) -> _Result:
        """Return `operation(ring)` for the ring of `refresh_after_unknown`; raises `refusal` if there is none."""
        fresh = self.refresh_after_unknown(tried, now, known_sender=known_sender)
        if fresh is None:
            raise refusal
        return operation(fresh)

    def record_use(self, fingerprint: str, now: int) -> None:
        """Store when a key last verified a message. Writes at most once a minute for each key; never raises."""
        if not self._must_record_use(fingerprint, now):
            return
        # Set even if the write fails: a full disk is not retried with every message.
        self._used_at[fingerprint] = now
        try:
            self._update(lambda stored: replace(stored, ring=stored.ring.with_use(fingerprint, now)))
        except Exception as error:
            self._log_failure(error)

    def forget(self, fingerprint: str, now: int) -> Ring:
        """Remove a key from the ring and return the new ring. The next answer of DNS that names it brings it back.

        Raises:
            ValueError: the ring has no such key, or no other one.
            RingFileError: the ring cannot be written.
        """

        def forgotten(stored: StoredRing) -> StoredRing:
            return _with_ring(stored, stored.ring.without(fingerprint), now)

        self._update(forgotten)
        return self.ring()

    def _must_record_use(self, fingerprint: str, now: int) -> bool:
        return any(
            entry.key.fingerprint == fingerprint and now - self._recorded_use(entry) >= USE_PRECISION_MS
            for entry in self._stored().ring.entries
        )

    def _recorded_use(self, entry: RingEntry) -> int:
        return max(entry.last_used_at or 0, self._used_at.get(entry.key.fingerprint, 0))

    def _stored(self) -> StoredRing:
        try:
            stored = self._file.read()
        except RingFileDamagedError as error:
            self._fail(_READ, str(error))
            # Without times, so that the query that rebuilds the file is due at once.
            return StoredRing(self._file.last_read.ring)
        except RingFileError as error:
            self._fail(_READ, str(error))
            return self._file.last_read
        self._failures.worked(_READ)
        # Whichever process sent the query.
        if stored.asked_at is not None and stored.answered_at == stored.asked_at:
            self._failures.worked(_QUERY)
        return stored

    def _query_if(
        self, is_needed: Callable[[StoredRing], bool], now: int, *, wait: bool = False, is_urgent: bool = False
    ) -> None:
        if not wait and not is_needed(self._stored()):
            return
        try:
            with self._file.query_lock(wait=wait) as is_held:
                # Checked again: another process may have queried DNS since.
                if is_held and is_needed(self._stored()):
                    self._query_and_store(now, is_urgent=is_urgent)
                    self._failures.worked(_REFRESH)
        except Exception as error:
            self._log_failure(error)

    def _query_and_store(self, now: int, *, is_urgent: bool = False) -> None:
        self._is_querying = True
        try:
            # Written before the query, so that a failure or a kill counts as an attempt too.
            self._update(lambda stored: replace(stored, asked_at=now, urgent_at=now if is_urgent else stored.urgent_at))
            self._jitter = self._draw_jitter()
            psk, is_marked = self._answer(now)
            self._update(lambda stored: _answered(stored, psk, now, is_marked=is_marked))
        finally:
            self._is_querying = False
        # Logs a new key, and that DNS works again.
        self.ring()

    def _answer(self, now: int) -> tuple[bytes, bool]:
        """Return the PSK that DNS names, and whether its record has the prefix.

        One answer may be forged, so a new key has to be in two. If a resolver alternates between an old and a new
        record, the old one counts.
        """
        stored = self._stored()
        first = self._query()
        psk = self._select(first, stored, now)
        if psk in stored.ring.psks:
            return psk, has_prefix(first)
        second = self._query()
        again = self._select(second, stored, now)
        if again != psk and again not in stored.ring.psks:
            raise TxtError("two answers in a row name different new keys: does somebody forge answers?")
        return again, has_prefix(second)

    def _select(self, records: TxtRecords, stored: StoredRing, now: int) -> bytes:
        """Return the PSK among these records; if several could be it, store that."""
        try:
            return select_psk(records, without_prefix=stored.ring.psks if stored.needs_prefix else None)
        except TxtError as error:
            candidates = error.fingerprints if isinstance(error, AmbiguousError) else ()
            self._update(lambda stored: _with_candidates(stored, candidates, now))
            raise

    def _update(self, change: Callable[[StoredRing], StoredRing]) -> None:
        self._file.update(change)
        self._failures.worked(_WRITE)

    def _log_current(self, current: str | None) -> None:
        with self._lock:
            before, self._logged_key = self._logged_key, current
        if current != before:
            # A process that starts does not know which key the previous one used.
            suffix = f" (before: {before})" if before else ""
            _log.info("the current key is %s%s", current or "none", suffix)

    def _log_failure(self, error: Exception) -> None:
        match error:
            case RingFileError():
                self._fail(_WRITE, str(error))
            case DnsError() | TxtError():
                self._fail(_QUERY, str(error))
            case _:
                # An unexpected error must not end the caller's loop. Its text may quote the PSK.
                self._fail(_REFRESH, described(error, quoted=False))

    def _fail(self, activity: str, failure: str) -> None:
        text = f"{activity} failed, the last good keys stay in use: {failure}"
        self._failures.failed(activity, text, level=logging.WARNING)


def _answered(stored: StoredRing, psk: bytes, now: int, *, is_marked: bool) -> StoredRing:
    """Return what is stored after a usable answer."""
    ring = stored.ring.with_current(psk, now)
    # Not for a key on trial: one forged answer would make the real record, if it has no prefix, unusable.
    needs_prefix = stored.needs_prefix or (is_marked and ring.entries[0].standing is not Standing.TRIAL)
    answered = _with_candidates(_with_ring(stored, ring, now), (), now)
    return replace(answered, answered_at=now, needs_prefix=needs_prefix)


def _with_ring(stored: StoredRing, ring: Ring, now: int) -> StoredRing:
    is_same = _fingerprints(ring)[:1] == _fingerprints(stored.ring)[:1]
    return replace(stored, ring=ring, current_since=stored.current_since if is_same else now)


def _with_candidates(stored: StoredRing, candidates: tuple[str, ...], now: int) -> StoredRing:
    since = (now if stored.ambiguous_since is None else stored.ambiguous_since) if candidates else None
    return replace(stored, candidates=candidates, ambiguous_since=since)


def _fingerprints(ring: Ring) -> tuple[str, ...]:
    return tuple(entry.key.fingerprint for entry in ring.entries)
