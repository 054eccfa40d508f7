"""The key ring as a value: the current PSK and the two before it, newest first."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kattila_protocol.errors import BadSignature, NoKey
from kattila_protocol.signing import Key, Purpose

# The current PSK and the two previous ones.
RING_SIZE = 3


@dataclass(frozen=True, slots=True)
class RingEntry:
    """A key, when it was first seen in DNS, and when it last verified a message (ms UTC)."""

    key: Key
    first_seen_at: int
    last_used_at: int | None = None


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys that verify messages, newest first. The first one signs."""

    entries: tuple[RingEntry, ...] = ()

    @property
    def current(self) -> Key:
        """The key that signs. Raises NoKey if the ring is empty."""
        if not self.entries:
            raise NoKey("no PSK has been read from DNS yet", retry_after_seconds=60)
        return self.entries[0].key

    def with_current(self, psk: bytes, now: int) -> Ring:
        """Return the ring with `psk` first.

        A PSK that the ring already has only moves to the front and evicts no key, so a resolver that alternates between
        an old and a new record costs nothing.
        """
        key = Key.from_psk(psk)
        known = [entry for entry in self.entries if entry.key == key]
        others = [entry for entry in self.entries if entry.key != key]
        first = known[0] if known else RingEntry(key, first_seen_at=now)
        return Ring((first, *others)[:RING_SIZE])

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
