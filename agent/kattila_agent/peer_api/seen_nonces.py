"""The nonces of signed queries that were answered, so that none is answered twice.

Only this process's memory holds them, for as long as the skew limit: older queries are refused by their timestamp.
"""

from __future__ import annotations

import ipaddress
import threading
from collections import Counter

from kattila_protocol.errors import Overloaded, Replay
from kattila_protocol.freshness import MAX_SKEW_MS

# A query may be signed this much ahead of the node's clock, and is valid until it is as much behind it.
KEPT_MS = 2 * MAX_SKEW_MS
# Enough for 500 neighbours with a query every 30 seconds, in about 3 MB.
MAX_NONCES = 20_000
# Enough for 50 neighbours behind one address. One source cannot use up the memory for all others.
MAX_OF_ONE_SOURCE = 2_000
# A machine may choose its address within such a network.
_IPV6_PREFIX_LENGTH = 64


class SeenNonces:
    """The nonces of the last twenty minutes. Safe for several threads."""

    def __init__(self, limit: int = MAX_NONCES, limit_of_one_source: int = MAX_OF_ONE_SOURCE) -> None:
        """Start empty; the limits bound the memory."""
        self._limit = limit
        self._limit_of_one_source = limit_of_one_source
        self._seen: dict[str, tuple[int, str]] = {}
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, nonce: str, source: str, now: int) -> None:
        """Remember the nonce of an authentic query from an IP address at `now` (ms UTC).

        Raises:
            Replay: it was seen before.
            Overloaded: there are too many, of this source or in all.
        """
        network = _network_of(source)
        with self._lock:
            self._forget_before(now - KEPT_MS)
            if nonce in self._seen:
                raise Replay("this query was answered before")
            if self._counts[network] >= self._limit_of_one_source or len(self._seen) >= self._limit:
                queries = f"{self._counts[network]} queries from {network}, {len(self._seen)} in all"
                raise Overloaded(f"{queries}, within {KEPT_MS // 60_000} minutes", retry_after_seconds=60)
            self._seen[nonce] = now, network
            self._counts[network] += 1

    def _forget_before(self, moment: int) -> None:
        # In the order of arrival; a clock that went back only keeps them for longer.
        while self._seen:
            oldest = next(iter(self._seen))
            seen_at, network = self._seen[oldest]
            if seen_at >= moment:
                return
            del self._seen[oldest]
            self._counts[network] -= 1
            if not self._counts[network]:
                del self._counts[network]


def _network_of(source: str) -> str:
    address = ipaddress.ip_address(source)
    if address.version == 4:
        return source
    return str(ipaddress.ip_network((int(address), _IPV6_PREFIX_LENGTH), strict=False))
