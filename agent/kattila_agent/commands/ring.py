"""The ring of keys for commands that run once: from DNS, or the cached one; -forget-key."""

from __future__ import annotations

import logging

from kattila_agent.commands.errors import CommandError
from kattila_keys.dns_server import DnsError
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFileError
from kattila_protocol.ring import Ring
from kattila_protocol.txt import TxtError

_log = logging.getLogger("kattila.agent")


def usable_ring(keys: Keys, now: int) -> Ring:
    """Query DNS and return the ring, or the cached one if DNS fails.

    Raises CommandError if it has no key.
    """
    try:
        return keys.refresh(now)
    except (DnsError, TxtError, RingFileError) as error:
        ring = keys.ring()
        if not ring.entries:
            raise CommandError(f"no key to sign with: {error}") from None
        _log.warning("signing with the cached key %s: %s", ring.current.fingerprint, error)
        return ring


def forget_key(keys: Keys, fingerprint: str, now: int) -> str:
    """Remove a key from this node's ring, and return what was done as text; raises CommandError."""
    try:
        ring = keys.forget(fingerprint.lower(), now)
    except (ValueError, RingFileError) as error:
        raise CommandError(str(error)) from None
    return f"forgot {fingerprint.lower()}; the current key is {ring.current.fingerprint}"
