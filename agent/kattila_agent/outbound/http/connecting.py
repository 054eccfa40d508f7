"""Connect to one of several addresses in bounded time, although some of them may not answer (RFC 8305)."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any

# How long an attempt has before the next address is tried as well: the default of RFC 8305, section 8.
_DELAY_SECONDS = 0.25
_now = time.monotonic  # noqa: TID251 - sockets take real time, whatever clock the agent was given


def connect(
    addresses: Sequence[str], port: int, seconds: float, options: Iterable[tuple[Any, ...]] = ()
) -> socket.socket:
    """Return a socket that is connected to the first address that accepts, within these seconds.

    Attempts start in the given order, families in turn, and run at the same time. All start within half of the time.
    `options` are arguments of setsockopt.

    Raises:
        OSError: no address accepts. If one refuses, the error is that.
    """
    return _Race(in_turn(addresses) if len(addresses) > 1 else [*addresses], port, tuple(options)).run(seconds)


def in_turn(addresses: Sequence[str]) -> list[str]:
    """Return addresses with both families in turn, starting with the family of the first."""
    first = [address for address in addresses if (":" in address) == (":" in addresses[0])]
    second = [address for address in addresses if (":" in address) != (":" in addresses[0])]
    return [address for address in chain.from_iterable(zip_longest(first, second)) if address is not None]


class _Race:
    """Attempts to connect to several addresses."""

    def __init__(self, addresses: list[str], port: int, options: tuple[tuple[Any, ...], ...]) -> None:
        self._addresses = addresses
        self._port = port
        self._options = options
        self._running: set[socket.socket] = set()
        self._problems: list[OSError] = []

    def run(self, seconds: float) -> socket.socket:
        deadline = _now() + seconds
        delay = min(_DELAY_SECONDS, seconds / 2 / len(self._addresses))
        try:
            with selectors.DefaultSelector() as selector:
                for address in self._addresses:
                    self._start(address, selector)
                    if (winner := self._first_connected(selector, min(deadline, _now() + delay))) is not None:
                        return winner
                if (winner := self._first_connected(selector, deadline)) is not None:
                    return winner
            self._problems += [TimeoutError(errno.ETIMEDOUT, "no answer in time")] * bool(self._running)
            raise min(self._problems, key=_rank)
        finally:
            for loser in self._running:
                loser.close()

    def _start(self, address: str, selector: selectors.BaseSelector) -> None:
        try:
            # As bytes, because Python would encode a zone like the name of a host.
            host, flags = os.fsencode(address), socket.AI_NUMERICHOST
            found = socket.getaddrinfo(host, self._port, type=socket.SOCK_STREAM, flags=flags)
            family, kind, protocol, _, name = found[0]
            attempt = socket.socket(family, kind, protocol)
        except OSError as error:
            # Such as an interface that is gone, or a kernel without this family.
            self._problems.append(error)
            return
        self._running.add(attempt)
        for option in self._options:
            attempt.setsockopt(*option)
        attempt.setblocking(False)
        problem = attempt.connect_ex(name)
        if problem in (0, errno.EINPROGRESS):
            selector.register(attempt, selectors.EVENT_WRITE, attempt)
        else:
            self._fail(attempt, problem)

    def _first_connected(self, selector: selectors.BaseSelector, until: float) -> socket.socket | None:
        """Wait for a running attempt to succeed; return None once all have failed, or the time is over."""
        while self._running and (left := until - _now()) > 0:
            for key, _ in selector.select(left):
                attempt: socket.socket = key.data
                selector.unregister(attempt)
                problem = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if problem == 0:
                    self._running.remove(attempt)
                    return attempt
                self._fail(attempt, problem)
        return None

    def _fail(self, attempt: socket.socket, problem: int) -> None:
        self._running.remove(attempt)
        attempt.close()
        self._problems.append(OSError(problem, os.strerror(problem)))


def _rank(problem: OSError) -> int:
    """Return how much an error says about the server: a refusal the most, and other errors are local."""
    if isinstance(problem, ConnectionRefusedError):
        return 0
    return 1 if isinstance(problem, TimeoutError) else 2
