"""How names, addresses and prefixes from the kernel are written in a report."""

from __future__ import annotations

import socket


def text(value: bytes) -> str:
    """Return a name from the kernel as text; it may hold any bytes, and those that are not UTF-8 become hex escapes."""
    return value.decode("utf-8", "backslashreplace")


def packed(ip_address: str) -> tuple[int, bytes]:
    """Return family and bytes of an IP address without a zone; raises ValueError."""
    family = socket.AF_INET6 if ":" in ip_address else socket.AF_INET
    try:
        return family, socket.inet_pton(family, ip_address)
    except OSError:
        raise ValueError(f"{ip_address!r} is not an IP address") from None


def prefix(address: str | None, family: int, length: int) -> str:
    """Return a prefix as "192.0.2.0/24", "" if it has neither address nor length; raises ValueError if it is too long.

    An address that is absent, but has a length, is zero.
    """
    if address is None and not length:
        return ""
    bits, zero = (128, "::") if family == socket.AF_INET6 else (32, "0.0.0.0")  # noqa: S104 - nothing is bound
    if length > bits:
        raise ValueError(f"a prefix of {length} bits")
    return f"{address or zero}/{length}"
