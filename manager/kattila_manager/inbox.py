"""Bytes to an authentic, understood report, or a refusal.

May live here: the order in which a body is trusted: shape, MAC, meaning, time. Not here: what depends on earlier
reports (store.filing) and how a refusal is answered (answers).
"""

from __future__ import annotations

import re

from kattila_manager.decoding import decode
from kattila_manager.records import Incoming
from kattila_protocol import envelope
from kattila_protocol.envelope import Envelope
from kattila_protocol.freshness import check_skew
from kattila_protocol.names import MANAGER
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key

# The first members of DATA; enough to address an answer where the rest cannot be read.
_ADDRESS = re.compile(
    rb'\A\{"agent_id":"([0-9a-f-]{36})",.{0,64}?"nonce":"([0-9a-f]{32})","timestamp":([0-9]{1,15})', re.DOTALL
)
_NOBODY = (b"00000000-0000-0000-0000-000000000000", b"0" * 32, b"0")


def open_envelope(body: bytes, ring: Ring) -> tuple[Envelope, Key]:
    """Cut and verify a body that is addressed to the manager.

    Raises:
        TooLarge, Malformed, TooManyHops, NoKey, BadSignature: nothing is known of who sent it.
    """
    parts = envelope.cut(body)
    return parts, envelope.verify(parts, ring, MANAGER)


def read(parts: Envelope, key: Key, now: int) -> Incoming:
    """Read what an authentic report says; `now` is ms UTC.

    Raises:
        Malformed: DATA is not what the protocol says.
        ClockSkew: it was signed more than ten minutes from now.
    """
    report = decode(parts.data)
    check_skew(report.timestamp, now)
    return Incoming(report, parts.data, bytes.fromhex(parts.mac), key.fingerprint, parts.relay_path, now)


def sender(data: bytes) -> tuple[str, str, int]:
    """Return agent id, nonce and timestamp of a DATA that cannot be read as a whole; zeros where they are missing."""
    found = _ADDRESS.match(data)
    agent_id, nonce, timestamp = found.groups() if found else _NOBODY
    return agent_id.decode(), nonce.decode(), int(timestamp)
