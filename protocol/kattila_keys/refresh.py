"""When DNS is asked for the PSK, across all processes that share one ring file; and what a failure means.

May live here: the rule, and the one class that joins ring file and DNS. Not here: the two of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from kattila_keys.ring_file import Kept, RingFile, RingFileDamagedError, RingFileError
from kattila_keys.servers import DnsError, Records
from kattila_protocol.errors import BadSignature, NoKey
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.txt import TxtError, select_psk

# The seed's promise: hourly. Spread over 54 to 66 minutes, so that a fleet started at once does not ask at once.
REFRESH_MS = 60 * 60 * 1000
_SPREAD = 0.2
# At most this often, whoever sends us messages that we cannot verify.
ASK_AGAIN_MS = 60 * 1000
# Two that are told to refresh within this time, as the workers of one server are, ask once.
TOGETHER_MS = 1000
# How exactly a key's last use is known; it keeps writing out of the path of every message.
USE_NOTED_MS = 60 * 1000

_log = logging.getLogger("kattila.keys")

# What can fail, each logged when it begins to fail and when it works again.
_ASKING = "asking DNS for the PSK"
_READING = "reading the ring"
_WRITING = "writing the ring"

_Result = TypeVar("_Result")


def due_at(kept: Kept, jitter: float) -> int:
    """Return the moment (ms UTC) at which DNS is to be asked again; `jitter` is a share from 0 to 1.

    54 to 66 minutes after a good answer, 1 to 2 minutes after a failure, at once if DNS was never asked.
    """
    if kept.asked_at is None:
        return 0
    if kept.answered_at == kept.asked_at:
        return kept.asked_at + int(REFRESH_MS * (1 - _SPREAD / 2 + _SPREAD * jitter))
    return kept.asked_at + int(ASK_AGAIN_MS * (1 + jitter))


def is_due(kept: Kept, jitter: float, now: int) -> bool:
    """Tell whether the hourly question is due; it is also when the clock went back behind the last one."""
    return now >= due_at(kept, jitter) or _went_back(kept.asked_at, now)


def may_ask_again(asked_at: int | None, now: int) -> bool:
    """Tell whether a minute has passed since the last question, or the clock went back behind it."""
    return asked_at is None or now - asked_at >= ASK_AGAIN_MS or _went_back(asked_at, now)


def _went_back(asked_at: int | None, now: int) -> bool:
    # A little behind is another process that read the clock a moment later.
    return asked_at is not None and asked_at - now >= ASK_AGAIN_MS


def _just_asked(kept: Kept, now: int) -> bool:
    return kept.asked_at is not None and abs(now - kept.asked_at) < TOGETHER_MS


class Keys:
    """The ring of this node, kept fresh.

    Safe for several threads, and for several processes that share the file. `ring`, `may_refresh` and `use_is_due` cost
    a stat and may be called in an event loop; all other methods may block for DNS or for an fsync and must not: give
    them one thread of their own there, so that whoever needs a fresh ring meanwhile waits for the one question that is
    under way.
    """

    def __init__(self, file: RingFile, ask: Callable[[], Records], jitter: Callable[[], float]) -> None:
        """Join the file, a question to DNS (`ask_txt`, bound to its name), and chance from 0 to 1."""
        self._file = file
        self._ask = ask
        self._draw = jitter
        self._jitter = jitter()
        self._lock = threading.Lock()
        self._under_way = False
        self._shown: str | None = None
        self._failures: dict[str, str] = {}
        self._noted: dict[str, int] = {}

    @property
    def failure(self) -> str | None:
        """What DNS or the file is failing with at the moment, for a health check; None if all is well."""
        with self._lock:
            return "; ".join(self._failures.values()) or None

    def ring(self) -> Ring:
        """Return the ring as any process last wrote it; never raises, and is empty until DNS answered once.

        A file that became unreadable leaves the ring that this process read last.
        """
        ring = self._kept().ring
        self._show_current(ring)
        return ring

    def refresh(self, now: int) -> Ring:
        """Ask DNS at once and return the new ring. For commands: the failure is raised and not logged.

        Another question under way is waited for. If one of the last second was answered, that answer is taken.

        Raises:
            DnsError, TxtError: DNS gave no usable PSK; the last good ring stays.
            RingFileError: the ring cannot be kept.
        """
        with self._file.asking(wait=True):
            kept = self._kept()
            if kept.answered_at != kept.asked_at or not _just_asked(kept, now):
                self._ask_and_keep(now)
        return self.ring()

    def refresh_or_log(self, now: int) -> Ring:
        """Do as `refresh`, but log a failure and return the last good ring. For a daemon's start and SIGHUP.

        Of several workers told at once only one asks, even if DNS fails: they do not wait for it one after the other.
        """
        self._ask_if(lambda kept: not _just_asked(kept, now), now, wait=True)
        return self.ring()

    def refresh_if_due(self, now: int) -> None:
        """Ask DNS if the hour, or the minute after a failure, is over. Never raises; call it every few seconds."""
        self._ask_if(lambda kept: is_due(kept, self._jitter, now), now)

    def refresh_after_unknown(self, tried: Ring, now: int) -> Ring | None:
        """Before refusing an unknown signature, or after being refused: ask DNS unless it was asked within a minute.

        Returns the ring if it now has other keys than `tried`, or another order of them; else None. Never raises.
        """
        if _fingerprints(self.ring()) == _fingerprints(tried):
            self._ask_if(lambda kept: may_ask_again(kept.asked_at, now), now)
        fresh = self.ring()
        return None if _fingerprints(fresh) == _fingerprints(tried) else fresh

    def may_refresh(self, tried: Ring, now: int) -> bool:
        """Tell, for the price of a stat, whether `refresh_after_unknown` could bring another ring than `tried`.

        Also while this process is asking: in a rotation many messages come under the new key within that time, and
        those that queue behind the question (see the class) are verified instead of refused.
        """
        kept = self._kept()
        return self._under_way or _fingerprints(kept.ring) != _fingerprints(tried) or may_ask_again(kept.asked_at, now)

    def verify(self, operation: Callable[[Ring], _Result], now: int) -> _Result:
        """Return `operation(ring)`; if no key fits, once more with the ring of `refresh_after_unknown`.

        Raises whatever `operation` raises, BadSignature and NoKey included if no fresh ring helps.
        """
        tried = self.ring()
        try:
            return operation(tried)
        except (BadSignature, NoKey):
            fresh = self.refresh_after_unknown(tried, now)
            if fresh is None:
                raise
        return operation(fresh)

    def use_is_due(self, fingerprint: str, now: int) -> bool:
        """Tell whether `note_used` would write: the key is in the ring and its last use is a minute old."""
        return any(
            entry.key.fingerprint == fingerprint and now - self._last_noted_at(entry) >= USE_NOTED_MS
            for entry in self._kept().ring.entries
        )

    def note_used(self, fingerprint: str, now: int) -> None:
        """Keep that the key of this fingerprint verified a message; writes once a minute per key, and never raises."""
        if not self.use_is_due(fingerprint, now):
            return
        # Remembered even if the file cannot be written: a full disk is not tried again with every message.
        self._noted[fingerprint] = now
        try:
            self._update(lambda kept: replace(kept, ring=kept.ring.used(fingerprint, now)))
        except RingFileError as error:
            self._note(error)

    def _last_noted_at(self, entry: RingEntry) -> int:
        return max(entry.last_used_at or 0, self._noted.get(entry.key.fingerprint, 0))

    def _kept(self) -> Kept:
        try:
            kept = self._file.read()
        except RingFileDamagedError as error:
            self._fail(_READING, str(error))
            # Without its moments, so that the question which writes the file anew is due at once.
            return Kept(self._file.last_read.ring)
        except RingFileError as error:
            self._fail(_READING, str(error))
            return self._file.last_read
        self._recover(_READING)
        # Whichever process asked.
        if kept.asked_at is not None and kept.answered_at == kept.asked_at:
            self._recover(_ASKING)
        return kept

    def _ask_if(self, wanted: Callable[[Kept], bool], now: int, *, wait: bool = False) -> None:
        if not wait and not wanted(self._kept()):
            return
        try:
            with self._file.asking(wait=wait) as alone:
                # Looked at again: another process may have asked between the two.
                if alone and wanted(self._kept()):
                    self._ask_and_keep(now)
        except (DnsError, TxtError, RingFileError) as error:
            self._note(error)

    def _ask_and_keep(self, now: int) -> None:
        self._under_way = True
        try:
            # Kept before asking, so that a failure or a kill counts as an attempt too.
            self._update(lambda kept: replace(kept, asked_at=now))
            self._jitter = self._draw()
            psk = select_psk(self._ask())
            self._update(lambda kept: replace(kept, ring=kept.ring.with_current(psk, now), answered_at=now))
        finally:
            self._under_way = False
        # Tells of a new key, and that DNS works again.
        self.ring()

    def _update(self, change: Callable[[Kept], Kept]) -> None:
        self._file.update(change)
        self._recover(_WRITING)

    def _show_current(self, ring: Ring) -> None:
        current = ring.entries[0].key.fingerprint if ring.entries else None
        if current == self._shown:
            return
        with self._lock:
            before, self._shown = self._shown, current
        if current != before:
            _log.info("the current key is %s (before: %s)", current or "none", before or "none")

    def _note(self, error: DnsError | TxtError | RingFileError) -> None:
        self._fail(_WRITING if isinstance(error, RingFileError) else _ASKING, str(error))

    def _fail(self, what: str, failure: str) -> None:
        with self._lock:
            before, self._failures[what] = self._failures.get(what), failure
        if failure != before:
            _log.warning("%s failed, the last good keys stay in use: %s", what, failure)

    def _recover(self, what: str) -> None:
        if what not in self._failures:
            return
        with self._lock:
            failure = self._failures.pop(what, None)
        if failure is not None:
            _log.info("%s works again", what)


def _fingerprints(ring: Ring) -> tuple[str, ...]:
    return tuple(entry.key.fingerprint for entry in ring.entries)
