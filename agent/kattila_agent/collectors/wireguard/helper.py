"""Reads the dump of all interfaces from the WireGuard helper, a root program behind a unix socket.

docs/ARCHITECTURE.md specifies the protocol; kattila_agent.helpers.wireguard_helper is the other side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from kattila_agent.collectors.netlink.notation import text
from kattila_agent.collectors.unix_socket import UnreadableError, exchange, lines
from kattila_agent.collectors.wireguard import notation, wg_dump
from kattila_agent.collectors.wireguard.builder import InterfaceBuilder, PeerLimits
from kattila_agent.collectors.wireguard.notation import ScopeName

GREETING = b"kattila-wireguard 1"
UNREADABLE = b"(unreadable)"
_MAX_REASON = 120
_MAX_REASONS = 10_000


def read(path: Path) -> bytes:
    """Return the helper's answer; raises UnreadableError if there is none in time."""
    try:
        return exchange(path, b"")
    except OSError as error:
        raise UnreadableError(
            f"the WireGuard helper's socket {path} gives no answer ({error.strerror}): is its unit active, and may the "
            "agent use the socket?"
        ) from None


def parse(
    answer: bytes, limits: PeerLimits, scope_name: ScopeName = notation.scope_name
) -> tuple[dict[str, InterfaceBuilder], dict[str, str]]:
    """Return the interfaces by name and, by name, why others could not be read.

    Raises:
        UnreadableError: the helper failed, or its answer is incomplete.
        ValueError: the dump in it is malformed.
    """
    reasons: dict[str, str] = {}
    found = wg_dump.parse(_dump_lines(_body(answer), reasons), limits, scope_name)
    return found, reasons


def _dump_lines(body: bytes, reasons: dict[str, str]) -> Iterator[bytes]:
    """Yield the lines of the dump; the others, about unreadable interfaces, go into `reasons`."""
    for line in lines(body):
        if line.count(b"\t") != 2:
            yield line
            continue
        name, mark, reason = line.split(b"\t")
        if mark != UNREADABLE:
            raise ValueError("a line of 3 columns that is not a reason")
        reasons[text(name)] = text(reason)[:_MAX_REASON]
        if len(reasons) > _MAX_REASONS:
            raise ValueError(f"more than {_MAX_REASONS} interfaces that cannot be read")


def _body(answer: bytes) -> bytes:
    """Return the lines between greeting and end."""
    greeting, _, rest = answer.partition(b"\n")
    if greeting != GREETING:
        raise UnreadableError("the WireGuard helper's socket belongs to another program, or to another version of it")
    body, _, last = rest.removesuffix(b"\n").rpartition(b"\n")
    if last.startswith(b"failed "):
        raise UnreadableError(f"the WireGuard helper failed: {text(last[7:])[:_MAX_REASON]}")
    body += b"\n" if body else b""
    if not rest.endswith(b"\n") or last != b"end " + hashlib.sha256(body).hexdigest().encode():
        raise UnreadableError("the WireGuard helper's answer is incomplete")
    return body
