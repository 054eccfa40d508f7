"""What the helper sends: the dump of all interfaces from a root program behind a unix socket.

May live here: the client of that socket's protocol, which DESIGN.md specifies. Not here: the helper itself
(kattila_agent.helpers.wireguard_helper).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from kattila_agent.collectors.netlink.rtnetlink import text
from kattila_agent.collectors.unix_socket import UnreadableError, ask, lines
from kattila_agent.collectors.wireguard import dump, spelling
from kattila_agent.collectors.wireguard.gathering import Gathering, Limits
from kattila_agent.collectors.wireguard.spelling import ScopeName

GREETING = b"kattila-wireguard 1"
UNREADABLE = b"(unreadable)"
_MAX_REASON = 120
_MAX_REASONS = 10_000


def read(path: Path) -> bytes:
    """Ask the helper; raises UnreadableError if nobody answers, or not in time."""
    try:
        return ask(path, b"")
    except OSError as error:
        raise UnreadableError(
            f"the WireGuard helper's socket {path} gives no answer ({error.strerror}): is its unit active, and is the "
            "socket the agent's?"
        ) from None


def parse(
    answer: bytes, limits: Limits, scope_name: ScopeName = spelling.scope_name
) -> tuple[dict[str, Gathering], dict[str, str]]:
    """Return the interfaces by name and, by name, why others could not be read.

    Raises:
        UnreadableError: the helper failed, or its answer is not whole.
        ValueError: the dump in it is none.
    """
    reasons: dict[str, str] = {}
    found = dump.parse(_dumped(_framed(answer), reasons), limits, scope_name)
    return found, reasons


def _dumped(body: bytes, reasons: dict[str, str]) -> Iterator[bytes]:
    """Yield the lines of the dump, and put those that tell why there is none into `reasons`."""
    for line in lines(body):
        if line.count(b"\t") != 2:
            yield line
            continue
        name, reason = _reason(line)
        reasons[name] = reason
        if len(reasons) > _MAX_REASONS:
            raise ValueError(f"more than {_MAX_REASONS} interfaces that cannot be read")


def _framed(answer: bytes) -> bytes:
    """Return what stands between greeting and end."""
    greeting, _, rest = answer.partition(b"\n")
    if greeting != GREETING:
        raise UnreadableError("what answers on the WireGuard helper's socket is no helper of this version")
    body, _, last = rest.removesuffix(b"\n").rpartition(b"\n")
    if last.startswith(b"failed "):
        raise UnreadableError(f"the WireGuard helper failed: {text(last[7:])[:_MAX_REASON]}")
    body += b"\n" if body else b""
    if not rest.endswith(b"\n") or last != b"end " + hashlib.sha256(body).hexdigest().encode():
        raise UnreadableError("the WireGuard helper's answer is not whole")
    return body


def _reason(line: bytes) -> tuple[str, str]:
    name, mark, reason = line.split(b"\t")
    if mark != UNREADABLE:
        raise ValueError("a line of 3 columns that is no reason")
    return text(name), text(reason)[:_MAX_REASON]
