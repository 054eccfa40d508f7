"""One end of a WireGuard tunnel: the kernel's timers, sessions and counters, as an event model.

It follows timers.c, send.c, receive.c and noise.c of the kernel. There is no cryptography: a session is a number, and a
preshared key is a word. Times are ms since the start of the simulation, sizes bytes of UDP payload.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from random import Random
from typing import NamedTuple

# 2026-01-31 12:00:00 UTC, the wall clock (ms) at the start of every simulation.
STARTED_AT = 1_769_860_800_000
# messages.h.
REKEY_AFTER_MS = 120_000
REJECT_AFTER_MS = 180_000
REKEY_TIMEOUT_MS = 5_000
_JITTER_MS = 333
KEEPALIVE_TIMEOUT_MS = 10_000
_MOST_RETRIES = 18
_LAST_MINUTE_MS = REJECT_AFTER_MS - KEEPALIVE_TIMEOUT_MS - REKEY_TIMEOUT_MS
INITIATION_SIZE, ANSWER_SIZE, KEEPALIVE_SIZE = 148, 92, 32
_MOST_STAGED = 128


class Initiation(NamedTuple):
    """The first message of a handshake; `timestamp` is the sender's wall clock (ms)."""

    number: int
    timestamp: int


class Answer(NamedTuple):
    """The second message of a handshake. The preshared key enters here."""

    number: int
    session: int
    preshared_key: str


class Data(NamedTuple):
    """An encrypted packet; one of 32 bytes is a keepalive."""

    session: int
    size: int


Packet = Initiation | Answer | Data


class Timer(IntEnum):
    """The timers of a peer. The deletion of old keys changes neither counters nor handshakes, so it is left out."""

    RETRANSMIT = 0
    ANSWER_DATA = 1
    NEW_HANDSHAKE = 2
    PERSISTENT_KEEPALIVE = 3


class Session(NamedTuple):
    """A keypair: its number, which both ends share, when this end made it, and whether this end was the initiator."""

    number: int
    born_at: int
    is_initiator: bool


@dataclass(frozen=True, slots=True)
class EndSettings:
    """The configuration of one end. `has_endpoint` is false for an end that only learns the other one's address."""

    keepalive_seconds: int = 0
    preshared_key: str = ""
    has_endpoint: bool = True
    clock_ahead_ms: int = 0


class World(NamedTuple):
    """What an end needs from the simulation.

    `send` hands a packet to the network, `arm` starts a timer for a time, and `number` returns a new number.
    """

    send: Callable[[Packet], None]
    arm: Callable[[Timer, int], None]
    number: Callable[[], int]
    random: Random


@dataclass(slots=True)
class WireguardEnd:
    """One end: an interface with one peer. `now` must be set before each call.

    Without `has_allowed_source`, it discards the peer's data: the source is not in its AllowedIPs.
    """

    settings: EndSettings
    world: World
    now: int = 0
    rx: int = 0
    tx: int = 0
    latest_handshake: int = 0
    clock_ahead_ms: int = 0
    boot: int = 1
    interface_index: int = 5
    is_up: bool = True
    has_route: bool = True
    has_allowed_source: bool = True
    rx_errors: int = 0
    has_endpoint: bool = True
    preshared_key: str = ""
    deadlines: list[int | None] = field(default_factory=lambda: [None] * len(Timer))
    _current: Session | None = None
    _previous: Session | None = None
    _next: Session | None = None
    _pending: int | None = None
    _handshake_sent_at: int = -REKEY_TIMEOUT_MS
    _retries: int = 0
    _has_renewed_late: bool = False
    _needs_another_answer: bool = False
    _staged: list[int] = field(default_factory=list)
    _accepted_timestamp: int = -1

    @property
    def clock(self) -> int:
        """The node's wall clock (ms)."""
        return STARTED_AT + self.now + self.clock_ahead_ms

    # --- Configuration

    def start(self) -> None:
        """Bring the interface up: with a keepalive, the first handshake begins."""
        self.is_up = True
        if self.settings.keepalive_seconds:
            self.start_handshake()

    def start_handshake(self) -> None:
        """Send an empty packet, which begins a handshake if there is no session."""
        self._send_keepalive()

    def stop(self) -> None:
        """Take the interface down: it neither sends nor receives, and loses its sessions."""
        self.forget()
        self.is_up = False

    def forget(self) -> None:
        """Lose all sessions, counters and timestamps, as if the interface were created."""
        self.rx = self.tx = self.rx_errors = self.latest_handshake = 0
        self.deadlines = [None] * len(Timer)
        self._current = self._previous = self._next = None
        self._pending = None
        self._handshake_sent_at = self.now - REKEY_TIMEOUT_MS
        self._retries, self._has_renewed_late, self._needs_another_answer = 0, False, False
        self._staged.clear()
        self._accepted_timestamp = -1
        self.has_endpoint = self.settings.has_endpoint

    # --- Sending

    def send(self, size: int) -> None:
        """Send data of a size, or stage it until there is a session."""
        if not self.is_up:
            return
        del self._staged[: len(self._staged) + 1 - _MOST_STAGED]
        self._staged.append(padded(size))
        self._send_staged()

    def _send_keepalive(self) -> None:
        if not self._staged:
            self._staged.append(KEEPALIVE_SIZE)
        self._send_staged()

    def _send_staged(self) -> None:
        session = self._current
        if not self._staged:
            return
        if session is None or self.now - session.born_at >= REJECT_AFTER_MS:
            self._queue_initiation(is_retry=False)
            return
        staged, self._staged = self._staged, []
        has_sent_data = False
        for size in staged:
            self._traversed()
            self.deadlines[Timer.ANSWER_DATA] = None
            has_sent_data |= self._transmit(Data(session.number, size), size) and size != KEEPALIVE_SIZE
        if has_sent_data and self.deadlines[Timer.NEW_HANDSHAKE] is None:
            self._arm(Timer.NEW_HANDSHAKE, KEEPALIVE_TIMEOUT_MS + REKEY_TIMEOUT_MS + self._jitter())
        if session.is_initiator and self.now - session.born_at >= REKEY_AFTER_MS:
            self._queue_initiation(is_retry=False)

    def _queue_initiation(self, *, is_retry: bool) -> None:
        if not is_retry:
            self._retries = 0
        if self.now - self._handshake_sent_at < REKEY_TIMEOUT_MS:
            return
        self._handshake_sent_at = self.now
        self._pending = self.world.number()
        self._traversed()
        self.deadlines[Timer.ANSWER_DATA] = None
        self._transmit(Initiation(self._pending, self.clock), INITIATION_SIZE)
        self._arm(Timer.RETRANSMIT, REKEY_TIMEOUT_MS + self._jitter())

    def _transmit(self, packet: Packet, size: int) -> bool:
        """Hand a packet to the network; without an endpoint or a route it is not counted."""
        if not (self.has_endpoint and self.has_route):
            return False
        self.tx += size
        self.world.send(packet)
        return True

    # --- Receiving

    def receive(self, packet: Packet) -> None:
        """Take a packet from the network. A packet that is not accepted is not counted."""
        if not self.is_up:
            return
        if isinstance(packet, Data):
            self._receive_data(packet)
        elif isinstance(packet, Initiation):
            self._receive_initiation(packet)
        else:
            self._receive_answer(packet)

    def _receive_initiation(self, packet: Initiation) -> None:
        if packet.timestamp <= self._accepted_timestamp:
            return
        self._accepted_timestamp = packet.timestamp
        self.has_endpoint = True
        # It replaces the pending handshake of this end, so an answer to that is refused.
        self._pending = None
        self._handshake_sent_at = self.now
        self._next, self._previous = Session(self.world.number(), self.now, is_initiator=False), None
        self._traversed()
        self.deadlines[Timer.ANSWER_DATA] = None
        self._transmit(Answer(packet.number, self._next.number, self.preshared_key), ANSWER_SIZE)
        self._received(INITIATION_SIZE)

    def _receive_answer(self, packet: Answer) -> None:
        if packet.number != self._pending or packet.preshared_key != self.preshared_key:
            return
        self._pending = None
        self.has_endpoint = True
        self._previous, self._next = self._next or self._current, None
        self._current = Session(packet.session, self.now, is_initiator=True)
        self._received(ANSWER_SIZE)
        self._complete()
        self._send_keepalive()

    def _receive_data(self, packet: Data) -> None:
        session = next((each for each in (self._current, self._next, self._previous) if _has(each, packet)), None)
        if session is None or self.now - session.born_at >= REJECT_AFTER_MS:
            return
        self.has_endpoint = True
        if session is self._next:
            self._previous, self._current, self._next = self._current, session, None
            self._complete()
            self._send_staged()
        self._renew_late()
        is_discarded = packet.size != KEEPALIVE_SIZE and not self.has_allowed_source
        self.rx_errors += is_discarded
        self._received(0 if is_discarded else packet.size)
        if packet.size == KEEPALIVE_SIZE:
            return
        if self.deadlines[Timer.ANSWER_DATA] is None:
            self._arm(Timer.ANSWER_DATA, KEEPALIVE_TIMEOUT_MS)
        else:
            self._needs_another_answer = True

    def _received(self, size: int) -> None:
        self.rx += size
        self.deadlines[Timer.NEW_HANDSHAKE] = None
        self._traversed()

    def _renew_late(self) -> None:
        session = self._current
        if self._has_renewed_late or session is None or not session.is_initiator:
            return
        if self.now - session.born_at >= _LAST_MINUTE_MS:
            self._has_renewed_late = True
            self._queue_initiation(is_retry=False)

    def _complete(self) -> None:
        self.deadlines[Timer.RETRANSMIT] = None
        self._retries, self._has_renewed_late = 0, False
        self.latest_handshake = self.clock // 1000

    # --- Timers

    def expire(self, timer: Timer) -> None:
        """Let a timer expire."""
        self.deadlines[timer] = None
        if not self.is_up:
            return
        if timer is Timer.PERSISTENT_KEEPALIVE:
            self._send_keepalive()
        elif timer is Timer.NEW_HANDSHAKE:
            self._queue_initiation(is_retry=False)
        elif timer is Timer.ANSWER_DATA:
            self._send_keepalive()
            if self._needs_another_answer:
                self._needs_another_answer = False
                self._arm(Timer.ANSWER_DATA, KEEPALIVE_TIMEOUT_MS)
        elif self._retries > _MOST_RETRIES:
            self.deadlines[Timer.ANSWER_DATA] = None
            self._staged.clear()
        else:
            self._retries += 1
            self._queue_initiation(is_retry=True)

    def _traversed(self) -> None:
        """Any authenticated packet, in either direction, restarts the timer of the keepalive."""
        if self.settings.keepalive_seconds:
            self._arm(Timer.PERSISTENT_KEEPALIVE, self.settings.keepalive_seconds * 1000)

    def _arm(self, timer: Timer, after: int) -> None:
        deadline = self.now + after
        self.deadlines[timer] = deadline
        self.world.arm(timer, deadline)

    def _jitter(self) -> int:
        return self.world.random.randrange(_JITTER_MS)


def padded(size: int) -> int:
    """Return the UDP payload of a packet with data of a size."""
    return -(-size // 16) * 16 + KEEPALIVE_SIZE


def _has(session: Session | None, packet: Data) -> bool:
    return session is not None and session.number == packet.session
