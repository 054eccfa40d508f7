"""The replay window as it lies in the agents table: 16 bytes an entry.

May live here: packing. A nonce is kept by its first 8 bytes, which tells two random ones apart as well as 16 do.
"""

from __future__ import annotations

import struct

from kattila_protocol.freshness import WINDOW_SIZE, Freshness, Window

_ENTRY = struct.Struct(">Q8s")


def judge(packed: bytes, highest_tick: int, tick: int, nonce: str) -> Freshness:
    """Judge a message; the usual case, a tick above all others, unpacks nothing."""
    return Freshness.FRESH if tick > highest_tick else unpack(packed).judge(tick, _short(nonce))


def add(packed: bytes, highest_tick: int, tick: int, nonce: str) -> bytes:
    """Return the window with a message that was judged fresh."""
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
