"""The addresses of a name, from the system's resolver, without waiting long for it."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from kattila_settings.failures import described

# The C library tries each name server twice for 5 s (resolv.conf(5)), which is as long as a report may take.
RESOLVE_SECONDS = 3.0

# More addresses than a server has.
_MOST_REMEMBERED = 32

# Returns the addresses of a name, at least one. Raises OSError, and ValueError for an impossible name.
Lookup = Callable[[str], Sequence[str]]


def look_up(host: str) -> list[str]:
    """Return the addresses of a name in the order of the system's resolver.

    Waits for the resolver.

    Raises:
        OSError: socket.gaierror, the resolver failed.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [address_of(name) for *_, name in found]


def address_of(name: tuple[Any, ...]) -> str:
    """Return the address in a socket's name, with the zone of a link-local one, as in "fe80::1%2"."""
    host, scope = str(name[0]).partition("%")[0], name[3] if len(name) == 4 else 0
    return f"{host}%{scope}" if scope else host


def is_address(host: str) -> bool:
    """Return whether a URL's host is an IP address, which needs no lookup."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


class Resolver:
    """Looks up each name in a separate thread, and waits a few seconds for it.

    For several threads.

    If the system's resolver does not answer, the last known addresses stay in use. A late answer counts the next time.
    The address that answered last comes first, and those that did not answer a request come last.
    """

    def __init__(self, look_up: Lookup = look_up, seconds: float = RESOLVE_SECONDS) -> None:
        """Take the function that looks a name up, and how long to wait for it."""
        self._look_up = look_up
        self._seconds = seconds
        self._lock = threading.Lock()
        self._known: dict[str, Sequence[str]] = {}
        self._current: dict[str, _PendingLookup] = {}
        self._answered: dict[str, str] = {}
        self._unanswered: dict[str, list[str]] = {}

    def addresses(self, host: str) -> Sequence[str]:
        """Return the addresses of a name, in the order in which to try them.

        Raises:
            OSError: the name does not exist, or it was never resolved and cannot be resolved now.
        """
        pending = self._pending(host)
        pending.is_done.wait(self._seconds)
        problem = pending.problem
        if not pending.is_done.is_set():
            problem = socket.gaierror(socket.EAI_AGAIN, "the resolver does not answer in time")
        with self._lock:
            known = self._known.get(host)
            if known is None or (problem is not None and not _is_temporary(problem)):
                raise problem or socket.gaierror(socket.EAI_NONAME, "no address")
            return self._best_first(host, known)

    def remember(self, host: str, address: str, *, has_answered: bool) -> None:
        """Remember whether the server at an address of a name answered a request."""
        with self._lock:
            unanswered = self._unanswered.setdefault(host, [])
            if address in unanswered:
                unanswered.remove(address)
            if has_answered:
                self._answered[host] = address
            else:
                unanswered.append(address)
                del unanswered[:-_MOST_REMEMBERED]
                if self._answered.get(host) == address:
                    del self._answered[host]

    def _best_first(self, host: str, known: Sequence[str]) -> Sequence[str]:
        # The longer ago an address failed, the sooner its turn comes again.
        answered, unanswered = self._answered.get(host), self._unanswered.get(host, [])
        return sorted(
            known, key=lambda each: (each != answered, unanswered.index(each) + 1 if each in unanswered else 0)
        )

    def _pending(self, host: str) -> _PendingLookup:
        """Return the current lookup of a name, of which there is at most one."""
        with self._lock:
            current = self._current.get(host)
            if current is None:
                current = _PendingLookup()
                try:
                    threading.Thread(target=self._run, args=(host, current), daemon=True).start()
                except RuntimeError as error:
                    # The system's limit of threads is reached. The next call tries again.
                    current.fail(socket.EAI_AGAIN, str(error))
                else:
                    self._current[host] = current
            return current

    def _run(self, host: str, pending: _PendingLookup) -> None:
        try:
            addresses = self._look_up(host)
        except OSError as problem:
            pending.problem = problem
        except ValueError as error:  # An impossible name, for example with a label of 64 letters.
            pending.problem = socket.gaierror(socket.EAI_NONAME, str(error))
        except Exception as error:
            pending.problem = socket.gaierror(socket.EAI_FAIL, described(error))
        else:
            with self._lock:
                self._known[host] = addresses
        finally:
            with self._lock:
                del self._current[host]
            pending.is_done.set()


class _PendingLookup:
    """A lookup in progress and its problem, if it has failed."""

    def __init__(self) -> None:
        self.is_done = threading.Event()
        self.problem: OSError | None = None

    def fail(self, number: int, text: str) -> None:
        """End the lookup with an error of getaddrinfo(3)."""
        self.problem = socket.gaierror(number, text)
        self.is_done.set()


def _is_temporary(problem: OSError) -> bool:
    """Return whether the resolver is unreachable; otherwise the name does not exist."""
    return problem.errno in (socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM)
