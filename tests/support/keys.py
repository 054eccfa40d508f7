"""Creates `Keys` over a ring file and a TXT record of the test DNS server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kattila_keys.dns import query_txt
from kattila_keys.dns_server import DnsServer
from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose
from support.knot import ZONE
from support.waiting import PATIENCE_SECONDS

NOW = 1_700_000_000_000
SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
PSK = b"example psk, protects nothing"
NEW_PSK = b"example psk of the month to come"
THIRD_PSK = b"example psk of the month after"
MESSAGE = b'{"agent_id":"00000000-0000-4000-8000-000000000001"}'


def keys_at(path: Path, address: str, label: str, seconds: float = PATIENCE_SECONDS) -> Keys:
    server = DnsServer.parse(address)
    return Keys(
        RingFile(path),
        lambda: query_txt(f"{label}.{ZONE}", server=server, timeout_seconds=seconds),
        lambda: 0.5,
    )


def fingerprints(ring: Ring) -> list[str]:
    return [entry.key.fingerprint for entry in ring.entries]


def fingerprints_of(*psks: bytes) -> list[str]:
    return [Key.from_psk(psk).fingerprint for psk in psks]


def verify_as(psk: bytes) -> Callable[[Ring], Key]:
    """Return an operation for `Keys.verify`: verify a message signed with `psk`."""
    mac = Key.from_psk(psk).sign(Purpose.REPORT, MESSAGE)
    return lambda ring: ring.verify(Purpose.REPORT, MESSAGE, mac)
