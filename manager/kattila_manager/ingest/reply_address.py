"""Bytes to an authentic, understood report, or a refusal.

May live here: the order in which a body is trusted: shape, MAC, meaning, path, time. Not here: what depends on earlier
reports (store.filing) and how a refusal is answered (answers).
"""

from __future__ import annotations

import re

from kattila_manager.records import Incoming
from kattila_manager.store.decoding import decode
from kattila_protocol import envelope
from kattila_protocol.envelope import Envelope
from kattila_protocol.freshness import check_skew
from kattila_protocol.names import MANAGER
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key

# Whoever writes telemetry last has all that addresses an answer in front of it.
_ADDRESS_BYTES = 1024
_AGENT_ID = re.compile(rb'"agent_id"\s*:\s*"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"')
_NONCE = re.compile(rb'"nonce"\s*:\s*"([0-9a-f]{32})"')
_TIMESTAMP = re.compile(rb'"timestamp"\s*:\s*([0-9]{1,15})\s*[,}]')
# A string, or any other byte.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[^"]', re.DOTALL)


def open_envelope(body: bytes, ring: Ring) -> tuple[Envelope, Key]:
    """Cut and verify a body that is addressed to the manager.

    Raises:
        TooLarge, Malformed, TooManyHops, NoKey, BadSignature: nothing is known of who sent it.
    """
    parts = envelope.parse(body)
    return parts, envelope.verify(parts, ring, MANAGER)


def read(parts: Envelope, key: Key, now: int) -> Incoming:
    """Read what an authentic report says, which came at `now` (ms UTC); raises Malformed."""
    report = decode(parts.data)
    return Incoming(report, parts.data, bytes.fromhex(parts.mac), key.fingerprint, parts.relay_path, now)


def check(incoming: Incoming) -> None:
    """Check what needs no memory of earlier reports.

    Raises:
        RelayLoop: the relay path names the agent itself.
        ClockSkew: it was signed more than ten minutes from when it came.
    """
    envelope.check_origin(incoming.report.agent_id, incoming.relay_path)
    check_skew(incoming.report.timestamp, incoming.received_at)


def sender(data: bytes) -> tuple[str, str, int]:
    """Return agent id, nonce and timestamp of a DATA that cannot be read as a whole; zeros where they are missing.

    They are looked for among the outermost members in the first 1,024 bytes, in any order.
    """
    members = _outermost(data[:_ADDRESS_BYTES])
    agent_id, nonce, timestamp = (pattern.search(members) for pattern in (_AGENT_ID, _NONCE, _TIMESTAMP))
    return (
        agent_id[1].decode() if agent_id else "00000000-0000-0000-0000-000000000000",
        nonce[1].decode() if nonce else "0" * 32,
        int(timestamp[1]) if timestamp else 0,
    )


def _outermost(text: bytes) -> bytes:
    """Leave out what stands in objects and lists within the object."""
    depth, kept = 0, []
    for token in _TOKEN.findall(text):
        depth -= token in (b"}", b"]")
        if depth <= 1:
            kept.append(token)
        depth += token in (b"{", b"[")
    return b"".join(kept)
