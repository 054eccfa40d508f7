"""The key ring as a value: the current PSK and the ones before it, newest first, and when a key leaves.

DNS answers are not signed, so an answer may be forged. A key that is new to the ring is on trial: it pushes no other
key out, and leaves with the first answer that names another one. A second answer, a minute later, proves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from kattila_protocol.errors import BadSignature, NoKey
from kattila_protocol.signing import Key, Purpose

# The current PSK and the two previous ones. A key on trial comes on top.
RING_SIZE = 3
# The least time between the first and the last answer that named a key, for it to be proven.
TRIAL_MS = 60 * 1000
# How long a key stays that DNS no longer names: nodes refresh once an hour, and a node may be off for a month.
LEAST_KEPT_MS = 60 * 60 * 1000
MOST_KEPT_MS = 30 * 24 * 60 * 60 * 1000
# The same for the first key of a ring, if only one answer named it.
UNPROVEN_KEPT_MS = 24 * 60 * 60 * 1000


class Standing(StrEnum):
    """Why a key is in the ring."""

    TRIAL = "trial"
    PROVEN = "proven"
    # The first key of a ring: there was nothing to compare it with, and DNS may have named it for years.
    FIRST = "first"


@dataclass(frozen=True, slots=True)
class RingEntry:
    """A key and its history; all times are ms UTC by this node's clock.

    `first_seen_at` and `last_seen_at` are the first and the last answer of DNS that named it, `missing_since` the first
    one after that, None while DNS names it. `last_used_at` is when it last verified a message. In a file of an earlier
    version there is no `last_seen_at`.
    """

    key: Key
    first_seen_at: int
    last_used_at: int | None = None
    last_seen_at: int | None = None
    missing_since: int | None = None
    standing: Standing = Standing.FIRST

    @property
    def is_confirmed(self) -> bool:
        """Whether two answers named it that are at least a minute apart."""
        return self.last_seen_at is None or self.last_seen_at - self.first_seen_at >= TRIAL_MS

    @property
    def kept_ms(self) -> int:
        """How long it stays once DNS no longer names it: as long as DNS had named it, within bounds."""
        match self.standing:
            case Standing.TRIAL:
                return 0
            case Standing.FIRST:
                return MOST_KEPT_MS if self.is_confirmed else UNPROVEN_KEPT_MS
            case Standing.PROVEN:
                named_ms = (self.last_seen_at or self.first_seen_at) - self.first_seen_at
                return min(max(named_ms, LEAST_KEPT_MS), MOST_KEPT_MS)

    @property
    def expires_at(self) -> int | None:
        """When it leaves the ring (ms UTC), unless DNS names it again; None while DNS names it."""
        return None if self.missing_since is None else self.missing_since + self.kept_ms

    def named(self, now: int) -> RingEntry:
        """Return the entry after an answer that names it."""
        # If the clock was set back, the earlier time counts.
        entry = replace(self, first_seen_at=min(self.first_seen_at, now), last_seen_at=now, missing_since=None)
        is_proven = entry.standing is Standing.TRIAL and entry.is_confirmed
        return replace(entry, standing=Standing.PROVEN) if is_proven else entry

    def missing(self, now: int) -> RingEntry:
        """Return the entry after an answer that names another key."""
        return replace(self, missing_since=now if self.missing_since is None else min(self.missing_since, now))


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys that verify messages, newest first. The first one signs. They are not all on trial."""

    entries: tuple[RingEntry, ...] = ()

    @property
    def current(self) -> Key:
        """The key that signs. Raises NoKey if the ring is empty."""
        if not self.entries:
            raise NoKey("no PSK has been read from DNS yet", retry_after_seconds=60)
        return self.entries[0].key

    @property
    def psks(self) -> frozenset[bytes]:
        """The PSKs of all keys."""
        return frozenset(entry.key.psk for entry in self.entries)

    def with_current(self, psk: bytes, now: int) -> Ring:
        """Return the ring after an answer that names `psk`, which comes first.

        A new key is on trial, unless the ring is empty. Expired keys leave. A PSK that the ring already has only moves
        to the front, so a resolver that alternates between an old and a new record evicts no key but the one on trial.
        """
        key = Key.from_psk(psk)
        known = [entry for entry in self.entries if entry.key == key] or [RingEntry(key, now, standing=Standing.TRIAL)]
        first = known[0].named(now)
        others = [entry.missing(now) for entry in self.entries if entry.key != key]
        places = RING_SIZE if first.standing is Standing.TRIAL else RING_SIZE - 1
        return _believed((first, *_kept(others, places, now)))

    def without(self, fingerprint: str) -> Ring:
        """Return the ring without the key of this fingerprint.

        Raises:
            ValueError: there is no such key, or no other; the text says so.
        """
        left = [entry for entry in self.entries if entry.key.fingerprint != fingerprint]
        if len(left) == len(self.entries):
            names = ", ".join(entry.key.fingerprint for entry in self.entries) or "no key"
            raise ValueError(f"{fingerprint} is not in the ring, which holds {names}")
        if not left:
            raise ValueError(f"{fingerprint} is the only key: change the record in DNS first")
        return _believed(left)

    def with_use(self, fingerprint: str, now: int) -> Ring:
        """Return the ring with `now` as the last use of one key, unless that has a later one."""
        return Ring(
            tuple(
                replace(entry, last_used_at=max(now, entry.last_used_at or 0))
                if entry.key.fingerprint == fingerprint
                else entry
                for entry in self.entries
            )
        )

    def verify(self, purpose: Purpose, message: bytes, mac: str) -> Key:
        """Return the key that made `mac`; tries the newest key first.

        Raises:
            NoKey: the ring is empty.
            BadSignature: no key made it for this purpose.
        """
        if not self.entries:
            self.current  # noqa: B018 - raises NoKey with its text
        for entry in self.entries:
            if entry.key.matches(purpose, message, mac):
                return entry.key
        raise BadSignature(f"the MAC matches none of the {len(self.entries)} keys for the purpose {purpose.value!r}")


def _kept(missing: Sequence[RingEntry], places: int, now: int) -> list[RingEntry]:
    """Return the entries that have not expired; if they are too many, those that DNS had named longest or last."""
    left = [entry for entry in missing if entry.expires_at is None or now < entry.expires_at]
    longest = sorted(left, key=lambda entry: (entry.kept_ms, entry.missing_since or now), reverse=True)[:places]
    return [entry for entry in left if entry in longest]


def _believed(entries: Iterable[RingEntry]) -> Ring:
    """Return a ring of these entries. If all are on trial, there is nothing to compare the first with."""
    chosen = tuple(entries)
    if chosen and all(entry.standing is Standing.TRIAL for entry in chosen):
        chosen = (replace(chosen[0], standing=Standing.FIRST), *chosen[1:])
    return Ring(chosen)
