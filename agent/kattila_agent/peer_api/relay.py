"""Relay the reports of other agents on the path of this node's own reports, and return the manager's verdicts.

A relay never looks for a path on behalf of others: it has one, or it refuses. So a fleet that is cut off makes no more
attempts than its agents make for their own reports. A relay does not read what a report says.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict

from kattila_agent.identity import Identity
from kattila_agent.outbound.delivery import LEAST_SECONDS, RELAY_SECONDS
from kattila_agent.outbound.http.clients import UPDATES, Clients
from kattila_agent.outbound.http.connection import CONNECT_SECONDS, Reply, UnreachableError
from kattila_agent.outbound.paths import DeliveryPath, Uplink
from kattila_agent.runtime import Runtime
from kattila_keys.refresh import Keys
from kattila_protocol import envelope, message
from kattila_protocol.envelope import MAX_HOPS, Envelope
from kattila_protocol.errors import BudgetSpent, NoWay, Overloaded, Refusal, RelayLoop, TooManyHops
from kattila_protocol.names import MANAGER
from kattila_protocol.ring import Ring, RingEntry
from kattila_protocol.signing import Key, Purpose

# How many reports may wait for the manager at once; the other threads of the API stay free for queries.
SLOTS = 4
_RETRY_AFTER_SECONDS = 2
# Kept back from the caller's budget, for the answer's way back.
_MARGIN_SECONDS = 0.3
# How many verdicts are kept for callers that missed them: those of some minutes at a large site.
_KEPT_VERDICTS = 1000
# A verdict has some 400 bytes; a much larger one is not worth the memory.
_MAX_KEPT_BYTES = 4096


class ReportRelay:
    """Passes reports on, a few at a time. Safe for several threads."""

    def __init__(self, identity: Identity, keys: Keys, uplink: Uplink, clients: Clients, runtime: Runtime) -> None:
        """Take the parts. Keeps no verdict yet."""
        self._identity = identity
        self._keys = keys
        self._uplink = uplink
        self._clients = clients
        self._runtime = runtime
        self._slots = threading.BoundedSemaphore(SLOTS)
        self._verdicts = _Verdicts(_KEPT_VERDICTS)

    def pass_on(self, body: bytes, budget_seconds: float | None) -> Reply:
        """Pass a report on, within the caller's budget; return the manager's answer.

        Raises:
            TooLarge, Malformed, NoKey, BadSignature: not a report that is addressed to this agent.
            RelayLoop, TooManyHops: the report was here before, or would pass too many relays.
            Overloaded: too many reports are being passed on, or the manager is busy.
            BudgetSpent: the budget is too small.
            NoWay: this node does not reach the manager either.
        """
        began_at = self._runtime.monotonic()
        report = envelope.parse(body)
        own_id = self._identity.agent_id()
        key = self._keys.verify(lambda ring: envelope.verify(report, ring, own_id), self._runtime.now())
        kept = self._verdicts.get(report.mac)
        if kept is not None:
            return kept
        if report.mac == self._uplink.report_mac:
            raise RelayLoop("this agent made the report itself")
        path = self._path_for(report, own_id, began_at)
        onward = envelope.forward(report, own_id, key, path.next_hop or MANAGER)
        seconds = RELAY_SECONDS if budget_seconds is None else min(budget_seconds, RELAY_SECONDS)
        reply = self._sent(path, onward, began_at + seconds)
        self._check(reply, path, key)
        self._verdicts.add(onward.mac, reply)
        return reply

    def _path_for(self, report: Envelope, own_id: str, now: float) -> DeliveryPath:
        path = self._uplink.path(now)
        if own_id in report.relay_path or (path is not None and path.next_hop in report.relay_path):
            raise RelayLoop("the next hop is a relay that the report has passed already")
        if path is None:
            raise NoWay("this agent's own reports do not reach the manager either")
        if len(report.relay_path) + 1 + path.distance > MAX_HOPS:
            raise TooManyHops(
                f"the report has passed {len(report.relay_path)} relays, and {path.distance + 1} more are between here "
                f"and the manager; the limit is {MAX_HOPS}"
            )
        return path

    def _sent(self, path: DeliveryPath, onward: Envelope, deadline: float) -> Reply:
        pause = self._uplink.pause_seconds(self._runtime.monotonic())
        if path.relay is None and pause > 0:
            raise Overloaded("the manager asked for a pause", retry_after_seconds=math.ceil(pause))
        if not self._slots.acquire(blocking=False):
            raise Overloaded(f"{SLOTS} reports are being passed on", retry_after_seconds=_RETRY_AFTER_SECONDS)
        try:
            seconds = deadline - _MARGIN_SECONDS - self._runtime.monotonic()
            if seconds < LEAST_SECONDS:
                raise BudgetSpent(f"{max(0, round(seconds * 1000))} ms are left to reach the manager")
            return self._post(path, onward.to_bytes(), seconds)
        finally:
            self._slots.release()

    def _post(self, path: DeliveryPath, body: bytes, seconds: float) -> Reply:
        try:
            if path.relay is None:
                return self._clients.forwarding.post(UPDATES, body, seconds)
            return self._clients.agents.relay(path.relay.address, body, seconds)
        except UnreachableError as error:
            if seconds >= CONNECT_SECONDS:
                # Lost until this node's own next report finds a path.
                self._uplink.lost(path)
            next_hop = "the manager" if path.relay is None else "the next relay"
            raise NoWay(f"{next_hop} does not answer: {error}") from None

    def _check(self, reply: Reply, path: DeliveryPath, key: Key) -> None:
        """Raise a refusal unless the key that verified the report signed the reply."""
        try:
            message.unseal(Purpose.VERDICT, Ring((RingEntry(key, first_seen_at=0),)), reply.body)
        except Refusal as error:
            if reply.status == Overloaded.status and reply.retry_after_seconds is not None:
                raise Overloaded("the next hop is busy", retry_after_seconds=reply.retry_after_seconds) from None
            if reply.status == NoWay.status:
                self._uplink.lost(path)
            raise NoWay(f"the answer is not from the manager (HTTP {reply.status}): {error.detail}") from None


class _Verdicts:
    """The manager's last answers, by the MAC of the report."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Reply] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, mac: str) -> Reply | None:
        with self._lock:
            return self._kept.get(mac)

    def add(self, mac: str, reply: Reply) -> None:
        if len(reply.body) > _MAX_KEPT_BYTES or reply.status == Overloaded.status:
            return
        with self._lock:
            self._kept[mac] = reply
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
