"""The addresses of a name, without waiting for a resolver that hangs.

May live here: how long the system's resolver is waited for, and what stands in for its answer. Not here: the TXT record
of the key (kattila_keys), and connections.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence

# The C library asks each name server twice, for 5 s each time (resolv.conf(5)), which is as long as a report may take.
RESOLVE_SECONDS = 3.0

# Returns the addresses of a name, at least one. Raises OSError, and ValueError for what cannot be a name.
Ask = Callable[[str], Sequence[str]]


def ask_system(host: str) -> list[str]:
    """Return what the system's resolver says, in its order; waits for it.

    Raises:
        OSError: socket.gaierror, what it says instead.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(name[0]) for *_, name in found]


def numeric(host: str) -> bool:
    """Tell whether a URL's host is an IP address, for which nobody has to be asked."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


class Resolver:
    """Asks for a name in a thread of its own, and waits for that no longer than some seconds. For several threads.

    A resolver that does not answer says nothing of the servers that it used to name: what it said last holds as long as
    it is silent. What it says late, holds the next time.
    """

    def __init__(self, ask: Ask = ask_system, seconds: float = RESOLVE_SECONDS) -> None:
        """Take whom to ask, and for how long to wait. Asks nobody yet."""
        self._ask = ask
        self._seconds = seconds
        self._lock = threading.Lock()
        self._said: dict[str, Sequence[str]] = {}
        self._under_way: dict[str, _Question] = {}

    def addresses(self, host: str) -> Sequence[str]:
        """Return the addresses of a name, those to be tried first in front.

        Raises:
            OSError: there is no such name, or it was never resolved and is not now.
        """
        question = self._question(host)
        question.is_answered.wait(self._seconds)
        problem = question.problem
        if not question.is_answered.is_set():
            problem = socket.gaierror(socket.EAI_AGAIN, "the resolver does not answer in time")
        with self._lock:
            said = self._said.get(host)
        if said is None or (problem is not None and not _passes(problem)):
            raise problem or socket.gaierror(socket.EAI_NONAME, "no address")
        return said

    def _question(self, host: str) -> _Question:
        """Return the question for a name that is under way, so that one thread at most hangs for each name."""
        with self._lock:
            under_way = self._under_way.get(host)
            if under_way is None:
                under_way = self._under_way[host] = _Question()
                threading.Thread(target=self._put, args=(host, under_way), daemon=True).start()
            return under_way

    def _put(self, host: str, question: _Question) -> None:
        try:
            said = self._ask(host)
        except OSError as problem:
            question.problem = problem
        except ValueError as error:  # A name that cannot be one, as with a label of 64 letters.
            question.problem = socket.gaierror(socket.EAI_NONAME, str(error))
        else:
            with self._lock:
                self._said[host] = said
        finally:
            with self._lock:
                del self._under_way[host]
            question.is_answered.set()


class _Question:
    """One that is put to the system's resolver, and what came of it: the answer, if there is no problem."""

    def __init__(self) -> None:
        self.is_answered = threading.Event()
        self.problem: OSError | None = None


def _passes(problem: OSError) -> bool:
    """Tell whether the resolver could not be asked, rather than that it knows of no such name."""
    return problem.errno in (socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM)
