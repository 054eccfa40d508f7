"""Finds whom to answer when an authentic report cannot be parsed."""

from __future__ import annotations

import re

# If an agent writes telemetry last, the three members that address an answer precede it.
_ADDRESS_BYTES = 1024
_AGENT_ID = re.compile(rb'"agent_id"\s*:\s*"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"')
_NONCE = re.compile(rb'"nonce"\s*:\s*"([0-9a-f]{32})"')
_TIMESTAMP = re.compile(rb'"timestamp"\s*:\s*([0-9]{1,15})\s*[,}]')
# A report or a registration begins with it.
_DATA_PREFIX = b'{"data":'
# A string, or any other byte.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[^"]', re.DOTALL)


def find_reply_address(data: bytes) -> tuple[str, str, int]:
    """Return agent id, nonce and timestamp (ms UTC) of a report; zeros replace those that are missing.

    Only the outermost members in the first 1,024 bytes count, in any order.
    """
    members = _outermost(data[:_ADDRESS_BYTES])
    agent_id, nonce, timestamp = (pattern.search(members) for pattern in (_AGENT_ID, _NONCE, _TIMESTAMP))
    return (
        agent_id[1].decode() if agent_id else "00000000-0000-0000-0000-000000000000",
        nonce[1].decode() if nonce else "0" * 32,
        int(timestamp[1]) if timestamp else 0,
    )


def find_claimed_id(body: bytes) -> str:
    """Return the agent id that the sender of a signed message claims, before anything is verified."""
    return find_reply_address(body.removeprefix(_DATA_PREFIX))[0]


def _outermost(text: bytes) -> bytes:
    """Drop the contents of nested objects and lists."""
    depth, kept = 0, []
    for token in _TOKEN.findall(text):
        depth -= token in (b"}", b"]")
        if depth <= 1:
            kept.append(token)
        depth += token in (b"{", b"[")
    return b"".join(kept)
