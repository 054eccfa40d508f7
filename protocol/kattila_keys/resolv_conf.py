"""Reads the DNS servers of resolv.conf(5) as the C library does, which skips every line that it cannot use."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

# What the C library queries if the file has no usable line.
DEFAULT = "127.0.0.1"
# The C library uses the first three servers (MAXNS). Further ones would only shorten the time for each.
MAX_SERVERS = 3
# A server at the unspecified address is on this machine.
_THIS_MACHINE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens here


def nameservers(resolv_conf: Path) -> tuple[str, ...]:
    """Return the addresses of the usable `nameserver` lines, at most three; empty if there are none.

    Never raises: a file that cannot be read has no lines. Accepts what the C library accepts, and also CR line ends and
    white space at the start of a line. The zone of a link-local address stays ("fe80::1%eth0").
    """
    try:
        # As bytes, because a comment may have any encoding.
        lines = [line.split() for line in resolv_conf.read_bytes().split(b"\n")]
    except OSError:
        return ()
    found = [_address(words[1].decode("latin-1")) for words in lines if len(words) > 1 and words[0] == b"nameserver"]
    return tuple(address for address in found if address is not None)[:MAX_SERVERS]


def _address(word: str) -> str | None:
    address = _ipv4(word) or _ipv6(word)
    return None if address is None else _THIS_MACHINE.get(address, address)


def _ipv4(word: str) -> str | None:
    try:
        # Like the C library, this also reads short and hexadecimal forms, such as 127.1.
        return socket.inet_ntoa(socket.inet_aton(word))
    except (OSError, ValueError):
        return None


def _ipv6(word: str) -> str | None:
    try:
        address = ipaddress.IPv6Address(word)
    except ValueError:
        return None
    zone = address.scope_id if address.is_link_local else None
    # Other addresses are the same in every zone.
    return str(ipaddress.IPv6Address(address.packed)) + (f"%{zone}" if zone else "")
