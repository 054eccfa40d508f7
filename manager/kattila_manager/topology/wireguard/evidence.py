"""What an agent's successive newest samples show about one peer of one interface.

Evidence is a fold over samples, and it is all that a verdict reads. Times are ms UTC by the manager's clock, unless a
name says otherwise. Late samples are history and must not be folded.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from kattila_manager.topology.facts import Reading

# Both ends are sampled at different times, and their clocks and deliveries are not exact.
TOLERANCE_MS = 2000
# A handshake may seem this far in the future, because the sample's time is older than the reading.
AHEAD_MS = 10_000
# A session that is this old is dead, and packets of it are in flight no longer: 180 s, and 15 s for the new handshake.
_SETTLED_MS = 195_000
# Rules count four. The newest intervals count only once they are known to be over at the other end, which may be
# sampled less often: an end with 10 s has seven of these if the other one has 60 s.
_MOST_INTERVALS = 12
# More than this many tenths of an interval between two samples are a gap.
_GAP_TENTHS = 31

# Begin and end of up to twelve intervals in turn, ascending.
Intervals = tuple[int, ...]


class Restart(StrEnum):
    """Why the counters of a view cannot be compared with the previous ones."""

    REBOOT = "reboot"
    RECREATED = "recreated"
    COUNTER = "counter"
    TIME = "time"


class Evidence(NamedTuple):
    """The evidence of one view: an agent, one of its interfaces, and a peer's key.

    `step_ms` is the time between the newest two samples. The run since `run_at` has neither a gap nor a restart.
    `rx_grew` and `tx_grew` are the last twelve intervals between samples in which a counter grew. `handshake_at` is the
    newest handshake, None if none is known, and `stamp` is its time by the node's own clock (s). `restarted_at` is 0
    if the counters never restarted. `discarded_at` is when the interface last discarded packets, of any peer; 0 if it
    never did.
    """

    reading: Reading
    step_ms: int
    run_at: int
    rx: int
    tx: int
    rx_grew: Intervals
    tx_grew: Intervals
    handshake_at: int | None
    stamp: int
    restart: Restart | None = None
    restarted_at: int = 0
    discarded_at: int = 0

    @property
    def at(self) -> int:
        """When the newest sample was measured."""
        return self.reading.at

    @property
    def run_ms(self) -> int:
        """How long the run is."""
        return self.reading.at - self.run_at

    @property
    def received_at(self) -> int:
        """When rx last grew, at the latest; the start of the run if it has not grown."""
        return self.rx_grew[-1] if self.rx_grew else self.run_at

    @property
    def sent_at(self) -> int:
        """When tx last grew, at the latest; the start of the run if it has not grown."""
        return self.tx_grew[-1] if self.tx_grew else self.run_at

    @property
    def clock_shift_ms(self) -> int:
        """How far the node's clock moved since the newest handshake: below 0 if it went back, 0 if none is known."""
        if self.handshake_at is None or self.stamp == 0:
            return 0
        return (self.reading.clock - self.stamp * 1000) - (self.at - self.handshake_at)

    @property
    def is_clock_behind(self) -> bool:
        """Whether the node's clock shows a time before its own newest handshake, so that its peer refuses new ones."""
        return self.reading.clock + TOLERANCE_MS < self.stamp * 1000


def fold(
    before: Evidence | None,
    reading: Reading,
    rx: int,
    tx: int,
    latest_handshake: int,
    known_handshake_at: int | None = None,
) -> Evidence:
    """Return the evidence after the next sample of the same view.

    `latest_handshake` is in seconds by the node's own clock, 0 for never. `known_handshake_at` is a handshake that an
    earlier publisher knew; it counts only for the first sample.
    """
    if before is None:
        is_restarted = known_handshake_at is not None and latest_handshake == 0
        restart = Restart.COUNTER if is_restarted else None
        return _begun(known_handshake_at, 0, reading, rx, tx, latest_handshake, restart)
    restart = _restart(before, reading, rx, tx)
    if restart is not None:
        return _begun(before.handshake_at, before.stamp, reading, rx, tx, latest_handshake, restart)
    return _continued(before, reading, rx, tx, latest_handshake)


def _begun(
    known_at: int | None,
    known_stamp: int,
    reading: Reading,
    rx: int,
    tx: int,
    latest_handshake: int,
    restart: Restart | None,
) -> Evidence:
    at = reading.at
    handshake_at, stamp = _handshake(known_at, known_stamp, reading, latest_handshake, has_grown=False)
    restarted_at = at if restart is not None else 0
    return Evidence(reading, reading.interval_ms, at, rx, tx, (), (), handshake_at, stamp, restart, restarted_at)


def _continued(before: Evidence, reading: Reading, rx: int, tx: int, latest_handshake: int) -> Evidence:
    at, previous_at, has_grown = reading.at, before.reading.at, rx > before.rx
    handshake_at, stamp = before.handshake_at, before.stamp
    if latest_handshake != stamp:
        handshake_at, stamp = _handshake(handshake_at, stamp, reading, latest_handshake, has_grown)
    is_gap = (at - previous_at) * 10 > reading.interval_ms * _GAP_TENTHS
    return Evidence(
        reading,
        at - previous_at,
        at if is_gap else before.run_at,
        rx,
        tx,
        _with(before.rx_grew, previous_at, at) if has_grown else before.rx_grew,
        _with(before.tx_grew, previous_at, at) if tx > before.tx else before.tx_grew,
        handshake_at,
        stamp,
        before.restart,
        before.restarted_at,
        at if reading.rx_errors > before.reading.rx_errors else before.discarded_at,
    )


def _with(intervals: Intervals, begin: int, end: int) -> Intervals:
    return (*intervals[-2 * (_MOST_INTERVALS - 1) :], begin, end)


def _restart(before: Evidence, reading: Reading, rx: int, tx: int) -> Restart | None:
    known = before.reading
    if reading.boot_id != known.boot_id:
        return Restart.REBOOT
    if None not in (reading.interface_index, known.interface_index) and (
        reading.interface_index != known.interface_index
    ):
        return Restart.RECREATED
    if reading.at <= known.at:
        return Restart.TIME
    return Restart.COUNTER if rx < before.rx or tx < before.tx else None


def _handshake(
    known_at: int | None, stamp: int, reading: Reading, latest_handshake: int, has_grown: bool
) -> tuple[int | None, int]:
    """Return the newest handshake and its stamp.

    Without a byte received there was no handshake: the node's clock moved. An unchanged `latest_handshake` is the known
    handshake, wherever the clock has moved since.
    """
    if latest_handshake in (0, stamp):
        return known_at, stamp
    at = reading.at - (reading.clock - latest_handshake * 1000)
    if at > reading.at + AHEAD_MS:
        return known_at, stamp
    if known_at is None or (has_grown and at > known_at):
        return min(at, reading.at), latest_handshake
    return known_at, stamp


def lost(sender: Evidence, receiver: Evidence, not_before: int = 0) -> int:
    """Return in how many intervals the sender's tx grew since the receiver's rx last grew.

    An interval counts if it began after that, and not before `not_before` (ms UTC), and if the receiver was sampled
    after it ended.
    """
    since = max(receiver.received_at + TOLERANCE_MS, not_before)
    grew = sender.tx_grew
    # Almost always the receiver got something during or after the sender's last interval.
    if not grew or grew[-2] <= since:
        return 0
    until = receiver.reading.at - TOLERANCE_MS
    return sum(grew[i] > since and grew[i + 1] < until for i in range(0, len(grew), 2))


def tried(sender: Evidence) -> int:
    """Return in how many intervals the sender's tx grew since its own rx last grew."""
    since = sender.received_at + TOLERANCE_MS
    return sum(begin > since for begin in sender.tx_grew[::2])


def received(receiver: Evidence, handshake_at: int) -> int:
    """Return in how many intervals rx grew long after a handshake, when its session can no longer carry packets."""
    since = handshake_at + _SETTLED_MS
    return sum(begin > since for begin in receiver.rx_grew[::2])
