"""Derives the public key of a private one: X25519 with the base point 9 (RFC 7748).

The userspace socket returns no public key for its interface, and the standard library has no X25519. This takes about
2 ms, depending on the key. Only someone on this machine could measure that, next to the process that holds the key.
"""

from __future__ import annotations

_P = 2**255 - 19
_A24 = 121665


def public_key(private_key: bytes) -> bytes:
    """Return the 32 bytes of the public key; raises ValueError if the private key has the wrong length."""
    if len(private_key) != 32:
        raise ValueError("a key has 32 bytes")
    scalar = int.from_bytes(private_key, "little") & (2**254 - 8) | 2**254
    # The Montgomery ladder of RFC 7748, section 5, with its names.
    x_1 = 9
    x_2, z_2, x_3, z_3 = 1, 0, 9, 1
    swap = 0
    for t in range(254, -1, -1):
        bit = scalar >> t & 1
        if swap ^ bit:
            x_2, z_2, x_3, z_3 = x_3, z_3, x_2, z_2
        swap = bit
        a, b, c, d = x_2 + z_2, x_2 - z_2, x_3 + z_3, x_3 - z_3
        aa, bb = a * a % _P, b * b % _P
        da, cb = d * a % _P, c * b % _P
        e = aa - bb
        x_3, z_3 = (da + cb) ** 2 % _P, x_1 * (da - cb) ** 2 % _P
        x_2, z_2 = aa * bb % _P, e * (aa + _A24 * e) % _P
    if swap:
        x_2, z_2 = x_3, z_3
    return (x_2 * pow(z_2, _P - 2, _P) % _P).to_bytes(32, "little")
