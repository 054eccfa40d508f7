"""Two WireGuard ends and the path between them, as a seeded event model that runs faster than real time.

The same seed and the same calls give the same counters. Times are ms since the start of the simulation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple

from kattila_simulate.wireguard import Data, EndSettings, Packet, Timer, WireguardEnd, World, padded

# Answers to a flow have another size, so that they are not answered.
_ANSWER_DATA = 100


@dataclass(slots=True)
class Path:
    """The network from one end to the other: the probability of losing a packet, the delay, and whether it is cut.

    A cut path loses every packet after the sender has counted it, as the kernel's output filter does.
    """

    loss: float = 0.0
    delay_ms: int = 20
    is_cut: bool = False


class Counters(NamedTuple):
    """A sample of one end. `clock` is the node's wall clock (ms), `latest_handshake` is in s by that clock."""

    clock: int
    boot: int
    interface_index: int
    rx: int
    tx: int
    latest_handshake: int
    rx_errors: int = 0


class Flow(NamedTuple):
    """Traffic from one end: a packet about every `every_ms`, which the other end answers if `is_answered`."""

    sender: int
    every_ms: int
    size: int = 84
    is_answered: bool = True


class Tunnel:
    """A tunnel between the ends 0 and 1. `paths[0]` leads from end 0 to end 1."""

    def __init__(
        self, random: Random, settings: tuple[EndSettings, EndSettings], flows: tuple[Flow, ...] = (), loss: float = 0.0
    ) -> None:
        """Create the tunnel; both interfaces come up, a few seconds apart."""
        self.now = 0
        self.paths = (Path(loss), Path(loss))
        self._random = random
        self._events: list[tuple[int, int, int, Timer | Packet | Flow | None]] = []
        self._count = 0
        self._answered = frozenset(padded(flow.size) for flow in flows if flow.is_answered)
        # When the earliest event of a timer is due, for each end.
        self._queued: tuple[list[int | None], list[int | None]] = ([None] * len(Timer), [None] * len(Timer))
        self.ends = tuple(self._end(side, each) for side, each in enumerate(settings))
        for side in (0, 1):
            self._push(random.randrange(5000), side, None)
        for flow in flows:
            self._push(random.randrange(flow.every_ms), flow.sender, flow)

    # --- What happens

    def run(self, until: int) -> None:
        """Let the time pass until `until` (ms since the start)."""
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, side, event = heappop(events)
            end = self.ends[side]
            end.now = self.now
            if isinstance(event, Timer):
                self._expire(side, end, event)
            elif event is None:
                end.start()
            elif isinstance(event, Flow):
                self._flow(end, event)
            else:
                self._deliver(end, event)
        self.now = until

    def sample(self, side: int) -> Counters:
        """Return what an agent at this end reads now."""
        end = self.ends[side]
        end.now = self.now
        return Counters(end.clock, end.boot, end.interface_index, end.rx, end.tx, end.latest_handshake, end.rx_errors)

    # --- What tests do to it

    def cut(self, *directions: int) -> None:
        """Cut the path from these ends, by default both directions."""
        for direction in directions or (0, 1):
            self.paths[direction].is_cut = True

    def repair(self) -> None:
        """Undo all cuts."""
        for path in self.paths:
            path.is_cut = False

    def reboot(self, side: int) -> None:
        """Restart a node: sessions and counters are gone, the boot is another one."""
        self.ends[side].boot += 1
        self._restart(side)

    def stop(self, side: int) -> None:
        """Switch a node off, until it is rebooted."""
        self.ends[side].now = self.now
        self.ends[side].stop()

    def recreate(self, side: int) -> None:
        """Delete and create the interface of an end again."""
        self.ends[side].interface_index += 1
        self._restart(side)

    def step_clock(self, side: int, by_ms: int) -> None:
        """Move the wall clock of a node."""
        self.ends[side].clock_ahead_ms += by_ms

    def send(self, side: int, size: int = 84) -> None:
        """Send one packet of data now."""
        self.ends[side].now = self.now
        self.ends[side].send(size)

    def _restart(self, side: int) -> None:
        end = self.ends[side]
        end.now = self.now
        end.forget()
        end.start()

    # --- Events

    def _end(self, side: int, settings: EndSettings) -> WireguardEnd:
        world = World(partial(self._transmit, side), partial(self._arm, side), self._number, self._random)
        return WireguardEnd(
            settings,
            world,
            clock_ahead_ms=settings.clock_ahead_ms,
            has_endpoint=settings.has_endpoint,
            preshared_key=settings.preshared_key,
        )

    def _push(self, at: int, side: int, event: Timer | Packet | Flow | None) -> None:
        heappush(self._events, (at, self._number(), side, event))

    def _number(self) -> int:
        self._count += 1
        return self._count

    def _transmit(self, side: int, packet: Packet) -> None:
        path = self.paths[side]
        if not path.is_cut and self._random.random() >= path.loss:
            self._push(self.now + path.delay_ms, 1 - side, packet)

    def _arm(self, side: int, timer: Timer, deadline: int) -> None:
        # Almost every packet moves the keepalive's deadline. One event per timer is enough: it finds the newest one.
        queued = self._queued[side][timer]
        if queued is None or queued > deadline:
            self._queued[side][timer] = deadline
            self._push(deadline, side, timer)

    def _expire(self, side: int, end: WireguardEnd, timer: Timer) -> None:
        if self._queued[side][timer] != self.now:
            return
        self._queued[side][timer] = None
        deadline = end.deadlines[timer]
        if deadline is None:
            return
        if deadline > self.now:
            self._arm(side, timer, deadline)
        else:
            end.expire(timer)

    def _flow(self, end: WireguardEnd, flow: Flow) -> None:
        end.send(flow.size)
        self._push(self.now + self._random.randrange(flow.every_ms // 2, flow.every_ms * 3 // 2), flow.sender, flow)

    def _deliver(self, end: WireguardEnd, packet: Packet) -> None:
        received = end.rx
        end.receive(packet)
        if isinstance(packet, Data) and packet.size in self._answered and end.rx > received:
            end.send(_ANSWER_DATA)
