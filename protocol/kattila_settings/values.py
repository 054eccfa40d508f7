"""Texts of settings to checked values; each raises ValueError saying what is expected.

May live here: the kinds of values that agent and manager share. Not here: the settings themselves.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

# An empty host stands for all addresses of both families.
ALL_ADDRESSES = ""

_HOST_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\.?\Z){_HOST_LABEL}(\.{_HOST_LABEL})*\.?")
_LISTEN = re.compile(r"(?:\*|\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?")

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a server listens; `host` is an IP address, or empty for all addresses of both families."""

    host: str
    port: int


def optional(read_value: Callable[[str], _Value]) -> Callable[[str], _Value | None]:
    """Make a reader that returns None for an empty text."""
    return lambda text: read_value(text) if text else None


def dns_name(text: str) -> str:
    """Read the name of a record."""
    if _DNS_NAME.fullmatch(text) is None:
        raise ValueError("not a DNS name, as in kattila.example.com")
    return text


def yes_or_no(text: str) -> bool:
    """Read a switch."""
    if text.lower() not in ("yes", "no"):
        raise ValueError("expected yes or no")
    return text.lower() == "yes"


def whole_number(least: int, most: int, unit: str) -> Callable[[str], int]:
    """Make a reader of a whole number within bounds."""

    def read_value(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError(f"expected whole {unit} from {least} to {most}")
        return int(text)

    return read_value


def listen(default_port: int) -> Callable[[str], Listen]:
    """Make a reader of `ADDRESS:PORT`, with `*` for all addresses."""

    def read_value(text: str) -> Listen:
        match = _LISTEN.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is not ADDRESS:PORT; expected as in *:{default_port}, 192.0.2.1:{default_port} "
                f"or [2001:db8::1]:{default_port}"
            )
        v6, v4, port = match.groups()
        if int(port or default_port) > 65535:
            raise ValueError(f"{port} is no port")
        return Listen(str(ipaddress.ip_address(v6 or v4)) if v6 or v4 else ALL_ADDRESSES, int(port or default_port))

    return read_value


def parts(text: str) -> list[str]:
    """Split at commas; empty parts fall out."""
    return [part.strip() for part in text.split(",") if part.strip()]
