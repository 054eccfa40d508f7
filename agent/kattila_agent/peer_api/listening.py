"""Binds the sockets that the agent's API listens on, and explains why an address cannot be used."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from kattila_settings.values import ALL_ADDRESSES, Listen

# A flood of connections fills this queue first.
BACKLOG = 512


class ListenError(OSError):
    """The agent cannot listen on an address; the text says which, why, and what to do."""


class NoAddressError(ListenError):
    """This machine does not have the address of `listen`, which may come later."""

    def __init__(self, text: str, listen: Listen) -> None:
        """Take the text of a ListenError, and the setting."""
        super().__init__(text)
        self.listen = listen


def open_sockets(listens: Iterable[Listen]) -> list[socket.socket]:
    """Bind and return all sockets; `*` means both families if the kernel has IPv6.

    Raises ListenError.
    """
    opened: list[socket.socket] = []
    try:
        for listen in listens:
            opened += _open(listen)
    except ListenError:
        for bound in opened:
            bound.close()
        raise
    return opened


def address_of(bound: socket.socket) -> str:
    """Return where a socket listens, as "192.0.2.1:5087" or "[2001:db8::1]:5087"."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _open(listen: Listen) -> list[socket.socket]:
    if listen.host != ALL_ADDRESSES:
        return [_bind(socket.AF_INET6 if ":" in listen.host else socket.AF_INET, listen.host, listen.port)]
    bound = [_bind(socket.AF_INET, "0.0.0.0", listen.port)]  # noqa: S104 - the setting asks for all addresses
    if _has_ipv6():
        try:
            bound.append(_bind(socket.AF_INET6, "::", listen.port or bound[0].getsockname()[1]))
        except ListenError:
            bound[0].close()
            raise
    return bound


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    try:
        return _bound(family, host, port)
    except OSError as error:
        text = f"cannot listen on {host} port {port} ({error.strerror}): {_remedy(error)}"
        if error.errno == errno.EADDRNOTAVAIL:
            raise NoAddressError(text, Listen(host, port)) from error
        raise ListenError(text) from error


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "is another agent running? AGENT_LISTEN sets another address or port"
        case errno.EADDRNOTAVAIL:
            return "the agent listens once this machine has the address; correct AGENT_LISTEN if it never will"
        case errno.EAFNOSUPPORT:
            return "the kernel has no IPv6; set an IPv4 address in AGENT_LISTEN"
        case errno.EACCES:
            return "ports below 1024 need CAP_NET_BIND_SERVICE; set a higher port in AGENT_LISTEN"
        case _:
            return "correct AGENT_LISTEN"
