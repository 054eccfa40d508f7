"""The ring as a value: the current PSK and the two before it, newest first.

May live here: which keys verify and in which order. Not here: where the ring is kept or when it is refreshed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kattila_protocol.errors import BadSignature, NoKey
from kattila_protocol.signing import Key, Purpose

# The seed's promise: the current and the two previous PSKs.
RING_SIZE = 3


@dataclass(frozen=True, slots=True)
class RingEntry:
    """One key with the moments (ms UTC) it was first seen in DNS and last verified a message."""

    key: Key
    first_seen_at: int
    last_used_at: int | None = None


@dataclass(frozen=True, slots=True)
class Ring:
    """The keys that verify, newest first; the first one signs."""

    entries: tuple[RingEntry, ...] = ()

    @property
    def current(self) -> Key:
        """The key that signs. Raises NoKey while the ring is empty."""
        if not self.entries:
            raise NoKey("no PSK has been read from DNS yet", retry_after_seconds=60)
        return self.entries[0].key

    def with_current(self, psk: bytes, now: int) -> Ring:
        """Put `psk` in front.

        One that the ring holds already moves there and pushes nothing out, so that a resolver which flaps between
        an old and a new record does no harm.
        """
        key = Key.from_psk(psk)
        known = [entry for entry in self.entries if entry.key == key]
        others = [entry for entry in self.entries if entry.key != key]
        front = known[0] if known else RingEntry(key, first_seen_at=now)
        return Ring((front, *others)[:RING_SIZE])

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
        """Return the key that made `mac`, tried newest first.

        Raises:
            NoKey: the ring is empty.
            BadSignature: none of the keys made it for this purpose.
        """
        if not self.entries:
            self.current  # noqa: B018 - raises NoKey with its explanation
        for entry in self.entries:
            if entry.key.made(purpose, message, mac):
                return entry.key
        raise BadSignature(f"the MAC fits none of the {len(self.entries)} keys for the purpose {purpose.value!r}")
