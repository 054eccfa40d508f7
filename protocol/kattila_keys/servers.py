"""Which resolver is asked, and what asking may give. Pure, so that settings are read without a DNS library.

May live here: values. Not here: the asking (dns), which brings 10 MB of it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

Records = tuple[tuple[bytes, ...], ...]

_PORTS = range(1, 65536)
_WITH_PORT = re.compile(r"\[([^\[\]]*)\](?::([0-9]{1,5}))?|([^:\[\]]*):([0-9]{1,5})")
# RFC 6761, section 6.3: always loopback, so no resolver is asked.
_LOOPBACK = ("127.0.0.1", "::1")


class DnsError(Exception):
    """DNS gave no usable answer; the text says what was asked, of whom, and what to do."""


@dataclass(frozen=True, slots=True)
class Server:
    """One resolver to ask instead of the system's: an IP address or "localhost", and a port."""

    host: str
    port: int = 53

    @classmethod
    def parse(cls, text: str) -> Server:
        """Read "ADDRESS", "ADDRESS:PORT", "[IPV6]" or "[IPV6]:PORT"; "localhost" is an address, too.

        Other names are not taken: finding one would need the DNS that is about to be chosen.

        Raises:
            ValueError: anything else; the text says what is expected.
        """
        host, port = _split(text.strip())
        if host != "localhost" and not _is_address(host):
            raise ValueError(
                f"{text!r} is no DNS server: give an IP address, as in 192.0.2.53, 192.0.2.53:5353, 2001:db8::53 or "
                "[2001:db8::53]:5353"
            )
        if port not in _PORTS:
            raise ValueError(f"{text!r} has no port from 1 to 65535")
        return cls(host, port)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses to ask, in this order."""
        return _LOOPBACK if self.host == "localhost" else (self.host,)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _split(text: str) -> tuple[str, int]:
    match = None if _is_address(text) else _WITH_PORT.fullmatch(text)
    if match is None:
        return text, 53
    bracketed, bracketed_port, host, port = match.groups()
    return (bracketed, int(bracketed_port or 53)) if bracketed is not None else (host, int(port))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
