"""The address of a DNS server, and the types of a query's result. Imports no DNS library, which would take 10 MB."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

# TXT records, each as its character-strings (RFC 1035, section 3.3.14).
TxtRecords = tuple[tuple[bytes, ...], ...]

DNS_PORT = 53
_PORTS = range(1, 65536)
_WITH_PORT = re.compile(r"\[([^\[\]]*)\](?::([0-9]{1,5}))?|([^:\[\]]*):([0-9]{1,5})")
# RFC 6761, section 6.3: "localhost" is always loopback, so it needs no query.
_LOOPBACK = ("127.0.0.1", "::1")


class DnsError(Exception):
    """DNS gave no usable answer. The text names the query, the server, and a remedy."""


@dataclass(frozen=True, slots=True)
class DnsServer:
    """A resolver to use instead of the system's: an IP address or "localhost", and a port."""

    host: str
    port: int = DNS_PORT

    @classmethod
    def parse(cls, text: str) -> DnsServer:
        """Parse "ADDRESS", "ADDRESS:PORT", "[IPV6]" or "[IPV6]:PORT", where ADDRESS may be "localhost".

        Other names are refused: resolving one would need the very DNS server that it names.

        Raises:
            ValueError: anything else; the text says what is expected.
        """
        host, port = _split(text.strip())
        if host != "localhost" and not _is_address(host):
            raise ValueError(
                f"{text!r} is not a DNS server: give an IP address, as in 192.0.2.53, 192.0.2.53:5353, 2001:db8::53 "
                "or [2001:db8::53]:5353"
            )
        if port not in _PORTS:
            raise ValueError(f"{text!r} has no port from 1 to 65535")
        return cls(host, port)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The IP addresses to query, in this order."""
        return _LOOPBACK if self.host == "localhost" else (self.host,)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _split(text: str) -> tuple[str, int]:
    match = None if _is_address(text) else _WITH_PORT.fullmatch(text)
    if match is None:
        return text, DNS_PORT
    bracketed, bracketed_port, host, port = match.groups()
    return (bracketed, int(bracketed_port or DNS_PORT)) if bracketed is not None else (host, int(port))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
