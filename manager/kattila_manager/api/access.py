"""Decides which requests may read, and which may administer; and the API's own refusals."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from dataclasses import dataclass

from kattila_protocol.errors import Refusal
from kattila_protocol.request_head import host_name

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Unauthorized(Refusal):
    """The request has no token, or a wrong one."""

    kind = "unauthorized"
    status = 401
    title = "A token is needed."


class LoopbackOnly(Refusal):
    """READ_TOKEN is not set, and the request comes from another machine."""

    kind = "loopback_only"
    status = 403
    title = "Without a READ_TOKEN only this machine may read."


class NotFound(Refusal):
    """The path does not exist."""

    kind = "not_found"
    status = 404
    title = "There is nothing at this path."


class MethodNotAllowed(Refusal):
    """The path exists, but not for this method."""

    kind = "method_not_allowed"
    status = 405
    title = "This path does not take this method."


class UnknownAgent(Refusal):
    """The request names an agent that the manager does not know."""

    kind = "unknown_agent"
    status = 404
    title = "No agent is known by this id."


@dataclass(frozen=True, slots=True)
class Credentials:
    """A request's source address, and its Host and Authorization headers."""

    source: str
    host: str
    authorization: str


def check_read(credentials: Credentials, read_token: str | None) -> None:
    """Check that a request may read agents, alarms and pages.

    Raises:
        Unauthorized: a token is set, and the request does not send it as Bearer or as HTTP Basic password.
        LoopbackOnly: no token is set, and the source or the Host header is not loopback. The header counts, because a
            page of another site can make a browser on this machine send requests (DNS rebinding).
    """
    if read_token is not None:
        _check_token(
            _bearer(credentials) or _password(credentials),
            read_token,
            "READ_TOKEN",
            " or as the password of HTTP Basic",
        )
    elif not _is_loopback(credentials.source) or host_name(credentials.host.strip()) not in _LOOPBACK_NAMES:
        raise LoopbackOnly("remote access needs READ_TOKEN: set it, or use localhost on the manager itself")


def check_admin(credentials: Credentials, admin_token: str | None) -> None:
    """Check that a request may reset agents.

    Raises:
        NotFound: ADMIN_TOKEN is not set, so the endpoint does not exist.
        Unauthorized: the request lacks it as Bearer. A password that a browser remembers could be used by other sites.
    """
    if admin_token is None:
        raise NotFound("administration is off: ADMIN_TOKEN is not set")
    _check_token(_bearer(credentials), admin_token, "ADMIN_TOKEN")


def _check_token(given: str, token: str, name: str, other_way: str = "") -> None:
    if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
        raise Unauthorized(f"send the {name} as 'Authorization: Bearer …'{other_way}")


def _bearer(credentials: Credentials) -> str:
    scheme, _, value = credentials.authorization.partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _password(credentials: Credentials) -> str:
    scheme, _, value = credentials.authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _is_loopback(source: str) -> bool:
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
