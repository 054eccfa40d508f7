"""Who may read and who may administer.

May live here: the rule, as pure functions of what a request shows, and the refusals of who asks for what is not there.
Not here: the protocol's own signatures.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from dataclasses import dataclass

from kattila_protocol.errors import Refusal

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Unauthorized(Refusal):
    """A token is needed, and none or a wrong one was shown."""

    kind = "unauthorized"
    status = 401
    title = "A token is needed."


class LoopbackOnly(Refusal):
    """No READ_TOKEN is set, and the request does not come from this machine."""

    kind = "loopback_only"
    status = 403
    title = "Without a READ_TOKEN only this machine may read."


class NotFound(Refusal):
    """There is nothing at this path."""

    kind = "not_found"
    status = 404
    title = "There is nothing at this path."


class MethodNotAllowed(Refusal):
    """There is something at this path, but not for this method."""

    kind = "method_not_allowed"
    status = 405
    title = "This path does not take this method."


class UnknownAgent(Refusal):
    """An agent was named that the manager has never heard of."""

    kind = "unknown_agent"
    status = 404
    title = "No agent is known by this id."


@dataclass(frozen=True, slots=True)
class Shown:
    """What a request shows of itself: the source address, its Host and its Authorization header."""

    source: str
    host: str
    authorization: str


def check_read(shown: Shown, read_token: str | None) -> None:
    """Check who reads agents, alarms and pages.

    Raises:
        Unauthorized: a token is set and was not shown as Bearer, or as the password of HTTP Basic.
        LoopbackOnly: none is set, and the source or the Host header is not loopback. The header counts, since a page
            of another site can make a browser on this machine ask (DNS rebinding).
    """
    if read_token is not None:
        _check_token(_bearer(shown) or _password(shown), read_token, "READ_TOKEN", " or as the password of HTTP Basic")
    elif not _is_loopback(shown.source) or _host_name(shown.host) not in _LOOPBACK_NAMES:
        raise LoopbackOnly("set READ_TOKEN to read from elsewhere, or ask on the manager itself under localhost")


def check_admin(shown: Shown, admin_token: str | None) -> None:
    """Check who resets agents.

    Raises:
        NotFound: no ADMIN_TOKEN is set, so that the endpoint does not exist.
        Unauthorized: it was not shown as Bearer; a password that a browser remembers could be used by another site.
    """
    if admin_token is None:
        raise NotFound("administration is off: no ADMIN_TOKEN is set")
    _check_token(_bearer(shown), admin_token, "ADMIN_TOKEN")


def _check_token(given: str, token: str, name: str, other_way: str = "") -> None:
    if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
        raise Unauthorized(f"show the {name} as 'Authorization: Bearer …'{other_way}")


def _bearer(shown: Shown) -> str:
    scheme, _, credentials = shown.authorization.partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


def _password(shown: Shown) -> str:
    scheme, _, credentials = shown.authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _is_loopback(source: str) -> bool:
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _host_name(host: str) -> str:
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]
