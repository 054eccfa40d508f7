"""What is known of sibling agents: who answered where, how far each is from the manager, and whom to ask next.

May live here: when an address is asked again, when knowledge is too old, and who may pass reports on in which order.
Not here: asking (asking), passing on (relay). Moments are monotonic seconds; chance is a share from 0 to 1.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

from kattila_protocol.envelope import MAX_HOPS
from kattila_protocol.peer import PeerAnswer

# Who answered is asked again after this time. While reports arrive nobody needs the answer: it is there for the day on
# which they do not.
REFRESH_SECONDS = 600.0
# A refresh that fails is tried again twice within this time (after one minute and two more) before its knowledge is
# too old.
MAX_AGE_SECONDS = 900.0
# How long a question may be under way before the address is due again; it takes 2 seconds.
LEASE_SECONDS = 30.0
# So many siblings with a fresh way to the manager are enough: one to pass reports on, two if that fails.
ENOUGH_WAYS = 3
MAX_HOSTNAME = 255


@dataclass(frozen=True, slots=True)
class BackOff:
    """How long to wait after something went wrong for the first time, and at most."""

    first_seconds: float
    last_seconds: float

    def seconds(self, times: int) -> float:
        """Return the pause after it went wrong so many times (1 or more) in a row: doubling, bounded."""
        return min(self.first_seconds * 2.0 ** min(times - 1, 30), self.last_seconds)


# For who does not answer while the manager is reached.
CALM = BackOff(60, 3600)
# While it is not reached: for who does not answer, and for who has no way to it either; and for who failed as a relay.
# With shorter intervals between reports they begin with one of those.
HURRIED = BackOff(30, 600)


@dataclass(frozen=True, slots=True)
class Relay:
    """An agent that may pass reports on.

    `address` is where it answered, as text; `distance` counts the relays between it and the manager, 0 if it reaches
    the manager itself.
    """

    address: str
    agent_id: str
    hostname: str
    distance: int


def jittered(seconds: float, share: float) -> float:
    """Return a pause shortened by up to a fifth, so that those who began together do not stay together."""
    return seconds * (1 - 0.2 * share)


@dataclass(slots=True)
class _Place:
    """An address: who answered there last, when it was asked last, and how often in a row nobody answered since."""

    position: int = 0
    asked_at: float = -math.inf
    share: float = 0.0
    failures: int = 0
    agent_id: str = ""
    round_trip: float = 0.0
    leased_until: float = -math.inf
    was_hurried: bool = False

    def asked(self, now: float, share: float) -> None:
        self.asked_at, self.share, self.leased_until = now, share, -math.inf


@dataclass(slots=True)
class _Sibling:
    """An agent by its id: what it said last, and how it fared as a relay.

    `wayless` counts the answers in a row by which it has no way to the manager, `refusals` the reports in a row that it
    did not pass on.
    """

    hostname: str = ""
    distance: int | None = None
    next_hop: str | None = None
    known_at: float = -math.inf
    share: float = 0.0
    wayless: int = 0
    refusals: int = 0
    refused_until: float = -math.inf
    passed_on_at: float = -math.inf

    @property
    def has_way(self) -> bool:
        return self.distance is not None and self.distance < MAX_HOPS

    def learn(self, distance: int | None, next_hop: str | None, now: float, share: float) -> None:
        self.distance, self.next_hop = distance, next_hop
        self.known_at, self.share = now, share
        self.wayless = 0 if self.has_way else self.wayless + 1

    def may_pass_on(self, now: float) -> bool:
        return self.has_way and self.refused_until <= now and now - self.known_at <= MAX_AGE_SECONDS


class Directory:
    """What is known of sibling agents. Safe for several threads."""

    def __init__(self, interval_seconds: float = 30.0) -> None:
        """Begin with nothing known; `interval_seconds` is that of the reports."""
        self._interval = interval_seconds
        self._hasty = BackOff(min(HURRIED.first_seconds, interval_seconds), HURRIED.last_seconds)
        self._places: dict[str, _Place] = {}
        self._siblings: dict[str, _Sibling] = {}
        self._hurried = False
        self._calm_since = -math.inf
        self._lock = threading.Lock()

    def update(self, candidates: tuple[str, ...], *, are_all: bool = True) -> None:
        """Take the addresses that are worth asking from now on, the most promising first, and forget others.

        Where these are not all, as something could not be read, those at which somebody answered stay.
        """
        with self._lock:
            stay = {} if are_all else {address: place for address, place in self._places.items() if place.agent_id}
            known = self._places
            self._places = {address: known.get(address) or _Place() for address in candidates} | stay
            for position, place in enumerate(self._places.values()):
                place.position = position
            self._forget_the_homeless()

    def due(self, now: float, *, hurried: bool) -> str | None:
        """Return the next address to ask, None if nobody is due; `hurried`: the manager is out of reach.

        The same address does not come again before `answered` or `failed` was called for it, or half a minute passed.
        """
        with self._lock:
            self._note_hurry(now, hurried)
            ripe = self._ripe(now)
            if not ripe:
                return None
            *_, address = min(ripe)
            place = self._places[address]
            place.leased_until = now + LEASE_SECONDS
            place.was_hurried = hurried
            return address

    def answered(self, address: str, answer: PeerAnswer, round_trip: float, now: float, share: float) -> None:
        """Take an answer that came from an address after `round_trip` seconds."""
        with self._lock:
            place = self._places.get(address)
            if place is None:
                return
            place.asked(now, share)
            place.failures, place.round_trip = 0, round_trip
            before, place.agent_id = place.agent_id, answer.agent_id
            if before not in ("", answer.agent_id):
                self._forget_the_homeless()
            sibling = self._siblings.setdefault(answer.agent_id, _Sibling())
            sibling.hostname = answer.hostname[:MAX_HOSTNAME]
            sibling.learn(answer.distance, answer.next_hop, now, share)
            if not sibling.has_way and not place.was_hurried:
                # That it had none while nobody needed one is no reason to wait once somebody does.
                sibling.wayless = 1

    def failed(self, address: str, now: float, share: float) -> None:
        """Note that nobody answered at an address, or nobody who can be understood."""
        with self._lock:
            place = self._places.get(address)
            if place is not None:
                place.asked(now, share)
                place.failures += 1

    def relays(self, own_id: str, now: float) -> tuple[Relay, ...]:
        """Return who may pass on this node's own reports, the best first.

        A sibling whose own reports go through `own_id` is none. The nearest comes first; of those equally near the one
        that passed on last, then the shortest round trip. Whose address did not answer the last question comes last.
        """
        with self._lock:
            found = []
            for agent_id, (address, place) in self._best_places().items():
                sibling = self._siblings[agent_id]
                if own_id in (agent_id, sibling.next_hop):
                    continue
                if sibling.distance is None or not sibling.may_pass_on(now):
                    continue
                relay = Relay(address, agent_id, sibling.hostname, sibling.distance)
                rank = (place.failures > 0, sibling.distance, -sibling.passed_on_at, place.round_trip, place.position)
                found.append((rank, relay))
            return tuple(relay for _, relay in sorted(found, key=lambda each: each[0]))

    def passed_on(self, agent_id: str, now: float) -> None:
        """Note that the manager's verdict came back through a sibling: it has the way that it told of."""
        with self._lock:
            sibling = self._siblings.get(agent_id)
            if sibling is not None:
                sibling.known_at = sibling.passed_on_at = now
                sibling.refusals, sibling.refused_until = 0, -math.inf
                # Whether it answered the last query or not: here is where it answers.
                self._best_places()[agent_id][1].failures = 0

    def refused(self, agent_id: str, now: float, share: float, *, knows_no_way: bool) -> None:
        """Note that a sibling did not pass a report on; `knows_no_way`: it says that it cannot reach the manager.

        Else the address may be to blame: it counts as one that did not answer, and if the sibling has another one, that
        is used next.
        """
        with self._lock:
            sibling = self._siblings.get(agent_id)
            if sibling is None:
                return
            if now - sibling.refused_until > self._hasty.last_seconds:
                sibling.refusals = 0
            sibling.refusals += 1
            sibling.refused_until = now + jittered(self._hasty.seconds(sibling.refusals), share)
            if knows_no_way:
                sibling.learn(None, None, now, share)
            else:
                _, place = self._best_places()[agent_id]
                place.asked(now, share)
                place.failures += 1

    def _note_hurry(self, now: float, hurried: bool) -> None:
        if hurried and not self._hurried and now - self._calm_since >= 2 * self._interval:
            # The manager was reached for a while: what siblings said in the outage before tells nothing of this one.
            for sibling in self._siblings.values():
                sibling.wayless = min(sibling.wayless, 1)
        if self._hurried and not hurried:
            self._calm_since = now
        self._hurried = hurried

    def _ripe(self, now: float) -> list[tuple[int, float, int, str]]:
        """Return what is due as (class, since when, position, address)."""
        is_enough = self._is_enough(now)
        return [
            (self._urgency(place), due_at, place.position, address)
            for address, place in self._places.items()
            if place.leased_until <= now and (due_at := self._due_at(place, is_enough)) <= now
        ]

    def _urgency(self, place: _Place) -> int:
        """While a way is looked for, those come first that had one, then those that may have one by now."""
        sibling = self._siblings.get(place.agent_id)
        if not self._hurried or sibling is None or place.failures:
            return 2
        return 0 if sibling.has_way else 1

    def _due_at(self, place: _Place, is_enough: bool) -> float:
        sibling = self._siblings.get(place.agent_id)
        if place.failures:
            pause = (self._hasty if self._hurried else CALM).seconds(place.failures)
        elif sibling is None or not self._hurried or (sibling.has_way and is_enough):
            pause = REFRESH_SECONDS
        else:
            # One of a sibling's addresses speaks for all of them.
            pause = self._interval if sibling.has_way else self._hasty.seconds(sibling.wayless)
            return sibling.known_at + jittered(pause, sibling.share)
        return place.asked_at + jittered(pause, place.share)

    def _is_enough(self, now: float) -> bool:
        ways = [sibling for sibling in self._siblings.values() if sibling.may_pass_on(now)]
        passes_on = any(now - sibling.passed_on_at <= 2 * self._interval for sibling in ways)
        return passes_on or sum(now - sibling.known_at <= self._interval for sibling in ways) >= ENOUGH_WAYS

    def _best_places(self) -> dict[str, tuple[str, _Place]]:
        """Return for each sibling the address to reach it at: one that answered, with the shortest round trip."""
        best: dict[str, tuple[str, _Place]] = {}
        for address, place in self._places.items():
            before = best.get(place.agent_id)
            if place.agent_id and (before is None or _preference(place) < _preference(before[1])):
                best[place.agent_id] = address, place
        return best

    def _forget_the_homeless(self) -> None:
        homes = {place.agent_id for place in self._places.values()}
        self._siblings = {agent_id: sibling for agent_id, sibling in self._siblings.items() if agent_id in homes}


def _preference(place: _Place) -> tuple[bool, float, int]:
    return place.failures > 0, place.round_trip, place.position
