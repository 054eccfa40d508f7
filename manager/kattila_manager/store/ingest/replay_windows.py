"""Packs replay windows for the agents table: 16 bytes an entry, with the first 8 bytes of each nonce.

Eight random bytes distinguish nonces as reliably as all 16.
"""

from __future__ import annotations

import struct

from kattila_protocol.freshness import WINDOW_SIZE, Freshness, Window

_ENTRY = struct.Struct(">Q8s")


def judge(packed: bytes, highest_tick: int, tick: int, nonce: str) -> Freshness:
    """Judge a message. A tick above all others, the usual case, needs no unpacking."""
    return Freshness.FRESH if tick > highest_tick else unpack(packed).judge(tick, _short(nonce))


def add(packed: bytes, highest_tick: int, tick: int, nonce: str) -> bytes:
    """Return the window with a fresh message added."""
    if tick > highest_tick:
        return (packed + _ENTRY.pack(tick, bytes.fromhex(nonce)[:8]))[-WINDOW_SIZE * _ENTRY.size :]
    return pack(unpack(packed).add(tick, _short(nonce)))


def pack(window: Window) -> bytes:
    """Return the bytes of a window whose nonces have 16 hex digits."""
    return b"".join(_ENTRY.pack(tick, bytes.fromhex(nonce)) for tick, nonce in window.entries)


def unpack(packed: bytes) -> Window:
    """Return the window, its nonces cut to 16 hex digits."""
    return Window(tuple((tick, nonce.hex()) for tick, nonce in _ENTRY.iter_unpack(packed)))


def _short(nonce: str) -> str:
    return nonce[:16]
