"""The known addresses and sibling agents: their answers, when to query each again, and which of them can relay reports.

Moments are monotonic seconds; `share` is a random number from 0 to 1.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from kattila_protocol.envelope import MAX_HOPS
from kattila_protocol.peer import PeerAnswer

# The pause between two queries to an address that answers. While reports arrive directly, the answers are only kept in
# reserve.
REFRESH_SECONDS = 600.0
# How long an answer is valid. A query that fails is repeated twice within this time, after one minute and two more.
MAX_AGE_SECONDS = 900.0
# After this time the address is due again, even if its query has not ended. A query takes 2 seconds.
LEASE_SECONDS = 30.0
# Enough siblings with a fresh path to the manager: one to relay reports, and two in reserve.
ENOUGH_PATHS = 3
MAX_HOSTNAME = 255


@dataclass(frozen=True, slots=True)
class BackOff:
    """A pause that doubles with each failure: the first one, and the longest one."""

    first_seconds: float
    last_seconds: float

    def seconds(self, times: int) -> float:
        """Return the pause after this number of failures in a row (1 or more)."""
        return min(self.first_seconds * 2.0 ** min(times - 1, 30), self.last_seconds)


# For addresses that do not answer while the manager is reachable.
CALM = BackOff(60, 3600)
# While the manager is unreachable: for addresses that do not answer, siblings without a path, and relays that failed.
# If the interval between reports is shorter, the first pause is one interval.
HURRIED = BackOff(30, 600)


@dataclass(frozen=True, slots=True)
class Relay:
    """An agent that can relay reports.

    `address` is where it answered, as text. `distance` is the number of relays between it and the manager, 0 if it
    reaches the manager directly.
    """

    address: str
    agent_id: str
    hostname: str
    distance: int


def jittered(seconds: float, share: float) -> float:
    """Return a pause shortened by up to a fifth, so that agents spread out."""
    return seconds * (1 - 0.2 * share)


@dataclass(slots=True)
class _Place:
    """An address: the last id, the time of the last query, and failures since."""

    position: int = 0
    asked_at: float = -math.inf
    share: float = 0.0
    failures: int = 0
    agent_id: str = ""
    round_trip: float = 0.0
    leased_until: float = -math.inf
    was_hurried: bool = False

    def note_query(self, now: float, share: float) -> None:
        self.asked_at, self.share, self.leased_until = now, share, -math.inf


@dataclass(slots=True)
class _Sibling:
    """An agent: its last answer, and its record as a relay.

    `pathless` counts the answers in a row without a path to the manager, `refusals` the reports in a row that it did
    not relay.
    """

    hostname: str = ""
    distance: int | None = None
    next_hop: str | None = None
    known_at: float = -math.inf
    share: float = 0.0
    pathless: int = 0
    refusals: int = 0
    refused_until: float = -math.inf
    passed_on_at: float = -math.inf

    @property
    def has_path(self) -> bool:
        return self.distance is not None and self.distance < MAX_HOPS

    def learn(self, distance: int | None, next_hop: str | None, now: float, share: float) -> None:
        self.distance, self.next_hop = distance, next_hop
        self.known_at, self.share = now, share
        self.pathless = 0 if self.has_path else self.pathless + 1

    def can_relay(self, now: float) -> bool:
        return self.has_path and self.refused_until <= now and now - self.known_at <= MAX_AGE_SECONDS


class Directory:
    """The known addresses and siblings. Safe for several threads."""

    def __init__(self, interval_seconds: float = 30.0) -> None:
        """Start empty; `interval_seconds` is the interval between reports."""
        self._interval = interval_seconds
        self._hasty = BackOff(min(HURRIED.first_seconds, interval_seconds), HURRIED.last_seconds)
        self._places: dict[str, _Place] = {}
        self._siblings: dict[str, _Sibling] = {}
        self._hurried = False
        self._calm_since = -math.inf
        self._lock = threading.Lock()

    def update(self, candidates: tuple[str, ...], *, are_all: bool = True) -> None:
        """Replace the addresses to query, the most promising first.

        If some are missing because a source could not be read (`are_all` is False), addresses that have answered stay.
        """
        with self._lock:
            stay = {} if are_all else {address: place for address, place in self._places.items() if place.agent_id}
            known = self._places
            self._places = {address: known.get(address) or _Place() for address in candidates} | stay
            for position, place in enumerate(self._places.values()):
                place.position = position
            if known.keys() - self._places.keys():
                self._forget_without_address()

    def due(self, now: float, *, hurried: bool) -> str | None:
        """Return the next address to query, None if none is due.

        `hurried` means that reports need a relay.

        An address is not returned again before `answered` or `failed` was called for it, or LEASE_SECONDS are over.
        """
        with self._lock:
            self._note_hurry(now, hurried)
            due = self._due(now)
            if not due:
                return None
            *_, address = min(due)
            place = self._places[address]
            place.leased_until = now + LEASE_SECONDS
            place.was_hurried = hurried
            return address

    def answered(self, address: str, answer: PeerAnswer, round_trip: float, now: float, share: float) -> None:
        """Note the answer from an address, which took `round_trip` seconds."""
        with self._lock:
            place = self._places.get(address)
            if place is None:
                return
            place.note_query(now, share)
            place.failures, place.round_trip = 0, round_trip
            before, place.agent_id = place.agent_id, answer.agent_id
            if before not in ("", answer.agent_id):
                self._forget_without_address()
            sibling = self._siblings.setdefault(answer.agent_id, _Sibling())
            sibling.hostname = answer.hostname[:MAX_HOSTNAME]
            sibling.learn(answer.distance, answer.next_hop, now, share)
            if not sibling.has_path and not place.was_hurried:
                # A sibling without a path is queried soon once this node needs one.
                sibling.pathless = 1

    def failed(self, address: str, now: float, share: float) -> None:
        """Note that no valid answer came from an address."""
        with self._lock:
            place = self._places.get(address)
            if place is not None:
                place.note_query(now, share)
                place.failures += 1

    def relays(self, own_id: str, now: float) -> tuple[Relay, ...]:
        """Return the siblings that can relay this node's reports, the best first.

        Siblings whose own reports go through `own_id` are left out. The order is by distance, then by the time of the
        last relayed report, then by round trip. Siblings that did not answer the last query come last.
        """
        with self._lock:
            found = []
            for agent_id, (address, place) in self._best_places().items():
                sibling = self._siblings[agent_id]
                if own_id in (agent_id, sibling.next_hop):
                    continue
                if sibling.distance is None or not sibling.can_relay(now):
                    continue
                relay = Relay(address, agent_id, sibling.hostname, sibling.distance)
                rank = (place.failures > 0, sibling.distance, -sibling.passed_on_at, place.round_trip, place.position)
                found.append((rank, relay))
            return tuple(relay for _, relay in sorted(found, key=lambda each: each[0]))

    def passed_on(self, agent_id: str, now: float) -> None:
        """Note that a sibling returned the manager's verdict, so that it has a path."""
        with self._lock:
            sibling = self._siblings.get(agent_id)
            if sibling is not None:
                sibling.known_at = sibling.passed_on_at = now
                sibling.refusals, sibling.refused_until = 0, -math.inf
                # The address works, even if the last query to it failed.
                self._best_places()[agent_id][1].failures = 0

    def refused(self, agent_id: str, now: float, share: float, *, has_no_path: bool) -> None:
        """Note that a sibling did not relay a report.

        `has_no_path` means that it cannot reach the manager itself.

        Otherwise the address may be at fault: this counts as a failed query, and another address of the sibling is used
        next if there is one.
        """
        with self._lock:
            sibling = self._siblings.get(agent_id)
            if sibling is None:
                return
            if now - sibling.refused_until > self._hasty.last_seconds:
                sibling.refusals = 0
            sibling.refusals += 1
            sibling.refused_until = now + jittered(self._hasty.seconds(sibling.refusals), share)
            if has_no_path:
                sibling.learn(None, None, now, share)
            else:
                _, place = self._best_places()[agent_id]
                place.note_query(now, share)
                place.failures += 1

    def _note_hurry(self, now: float, hurried: bool) -> None:
        if hurried and not self._hurried and now - self._calm_since >= 2 * self._interval:
            # The manager was reachable for a while, so the answers of the last outage say nothing about this one.
            for sibling in self._siblings.values():
                sibling.pathless = min(sibling.pathless, 1)
        if self._hurried and not hurried:
            self._calm_since = now
        self._hurried = hurried

    def _due(self, now: float) -> list[tuple[int, float, int, str]]:
        """Return the due addresses, each as (urgency, due since, position, address)."""
        is_enough = self._is_enough(now)
        return [
            (self._urgency(place), due_at, place.position, address)
            for address, place in self._places.items()
            if place.leased_until <= now and (due_at := self._due_at(place, is_enough)) <= now
        ]

    def _urgency(self, place: _Place) -> int:
        """Return 0 for a sibling with a path, 1 without one, and 2 otherwise or if calm."""
        sibling = self._siblings.get(place.agent_id)
        if not self._hurried or sibling is None or place.failures:
            return 2
        return 0 if sibling.has_path else 1

    def _due_at(self, place: _Place, is_enough: bool) -> float:
        sibling = self._siblings.get(place.agent_id)
        if place.failures:
            pause = (self._hasty if self._hurried else CALM).seconds(place.failures)
        elif sibling is None or not self._hurried or (sibling.has_path and is_enough):
            pause = REFRESH_SECONDS
        else:
            # The answer from one of a sibling's addresses counts for all of them.
            pause = self._interval if sibling.has_path else self._hasty.seconds(sibling.pathless)
            return sibling.known_at + jittered(pause, sibling.share)
        return place.asked_at + jittered(pause, place.share)

    def _is_enough(self, now: float) -> bool:
        able = [sibling for sibling in self._siblings.values() if sibling.can_relay(now)]
        is_relaying = any(now - sibling.passed_on_at <= 2 * self._interval for sibling in able)
        return is_relaying or sum(now - sibling.known_at <= self._interval for sibling in able) >= ENOUGH_PATHS

    def _best_places(self) -> dict[str, tuple[str, _Place]]:
        """Return the answering address of each sibling with the shortest round trip."""
        best: dict[str, tuple[str, _Place]] = {}
        for address, place in self._places.items():
            before = best.get(place.agent_id)
            if place.agent_id and (before is None or _preference(place) < _preference(before[1])):
                best[place.agent_id] = address, place
        return best

    def _forget_without_address(self) -> None:
        reachable = {place.agent_id for place in self._places.values()}
        self._siblings = {agent_id: sibling for agent_id, sibling in self._siblings.items() if agent_id in reachable}


def _preference(place: _Place) -> tuple[bool, float, int]:
    return place.failures > 0, place.round_trip, place.position
