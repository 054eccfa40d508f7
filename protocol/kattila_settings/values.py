"""Parsers for the values of settings; each raises ValueError with a text that says what is expected."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

# An empty host means all addresses of both families.
ALL_ADDRESSES = ""

_HOST_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\.?\Z){_HOST_LABEL}(\.{_HOST_LABEL})*\.?")
_LISTEN = re.compile(r"(?:\*|\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?")

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a server listens: an IP address, or ALL_ADDRESSES for both families, and a port."""

    host: str
    port: int


def optional(parse_value: Callable[[str], _Value]) -> Callable[[str], _Value | None]:
    """Return a parser that gives None for an empty text and calls `parse_value` for any other."""
    return lambda text: parse_value(text) if text else None


def dns_name(text: str) -> str:
    """Return a DNS name as given (RFC 1035, section 2.3.4; underscores are allowed)."""
    if _DNS_NAME.fullmatch(text) is None:
        raise ValueError("not a DNS name, as in kattila.example.com")
    return text


def yes_or_no(text: str) -> bool:
    """Return True for "yes" and False for "no", in any case."""
    if text.lower() not in ("yes", "no"):
        raise ValueError("expected yes or no")
    return text.lower() == "yes"


def whole_number(minimum: int, maximum: int, unit: str) -> Callable[[str], int]:
    """Return a parser of decimal integers from `minimum` to `maximum`; `unit` appears in its error."""

    def parse_value(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(f"expected whole {unit} from {minimum} to {maximum}")
        return int(text)

    return parse_value


def listen(default_port: int) -> Callable[[str], Listen]:
    """Return a parser of `ADDRESS` and `ADDRESS:PORT`, where `*` means all addresses."""

    def parse_value(text: str) -> Listen:
        match = _LISTEN.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is not ADDRESS:PORT; expected as in *:{default_port}, 192.0.2.1:{default_port} "
                f"or [2001:db8::1]:{default_port}"
            )
        v6, v4, port = match.groups()
        if int(port or default_port) > 65535:
            raise ValueError(f"{port} is not a port: the highest is 65535")
        return Listen(str(ipaddress.ip_address(v6 or v4)) if v6 or v4 else ALL_ADDRESSES, int(port or default_port))

    return parse_value


def split_at_commas(text: str) -> list[str]:
    """Return the parts between commas, without surrounding white space and without empty parts."""
    return [part.strip() for part in text.split(",") if part.strip()]
