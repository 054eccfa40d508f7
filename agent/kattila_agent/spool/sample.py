"""One measurement as it waits to be sent, and the DATA that says it.

May live here: what is kept of a measurement from the moment it has a number, and how it becomes a report. Not here: how
it is measured (measurement), kept (spool) or signed (reporting).
"""

from __future__ import annotations

from dataclasses import dataclass

from kattila_protocol import canonical
from kattila_protocol.names import checked_counter, checked_id, checked_nonce

# Two clocks that nobody sets differ by less.
_SET_MS = 1000


@dataclass(frozen=True, slots=True)
class Clock:
    """A moment by all clocks that matter to a sample.

    `now` is ms UTC, as right as the node's clock is; `boot_id` is the kernel's, and `since_boot_ms` what CLOCK_BOOTTIME
    said, which nobody sets: within one boot it tells true durations.
    """

    now: int
    boot_id: str
    since_boot_ms: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement as it waits to be sent, unsigned.

    `number` was given when it was measured and is never used twice under an id; `sampled_at` is ms UTC by the clock of
    that moment, `boot_id` and `since_boot_ms` are as of a Clock; `telemetry` is the encoded member of DATA.
    """

    number: int
    sampled_at: int
    boot_id: str
    since_boot_ms: int
    telemetry: bytes


@dataclass(frozen=True, slots=True)
class Signing:
    """What one message adds to a sample: the id that it is sent under, its tick and nonce, and the moment."""

    agent_id: str
    tick: int
    nonce: str
    clock: Clock


def encode(sample: Sample, signing: Signing) -> bytes:
    """Return the DATA of a report of this sample, with its members in the protocol's order.

    The telemetry goes in as it was encoded when it was measured. `boot_id` is that of the boot that signs, which the
    manager knows machines by; `sampled_at` is corrected (see `corrected_sampled_at`).

    Raises:
        Malformed: a member is out of its bounds.
    """
    head = canonical.encode({
        "agent_id": checked_id(signing.agent_id, "agent_id"),
        "sample": checked_counter(sample.number, "sample", minimum=1),
        "tick": checked_counter(signing.tick, "tick", minimum=1),
        "nonce": checked_nonce(signing.nonce),
        "timestamp": checked_counter(signing.clock.now, "timestamp"),
        "sampled_at": checked_counter(corrected_sampled_at(sample, signing.clock), "sampled_at"),
        "boot_id": checked_id(signing.clock.boot_id, "boot_id"),
    })  # fmt: skip
    return b'%s,"telemetry":%s}' % (head[:-1], sample.telemetry)


def corrected_sampled_at(sample: Sample, clock: Clock) -> int:
    """Return when a sample was measured (ms UTC), by what the clock says now.

    Within one boot the time since then is known, and tells whether the clock was set meanwhile. Of an earlier boot
    there is only what its clock said.
    """
    if sample.boot_id != clock.boot_id:
        return sample.sampled_at
    by_now = max(0, clock.now - max(0, clock.since_boot_ms - sample.since_boot_ms))
    return by_now if abs(by_now - sample.sampled_at) > _SET_MS else sample.sampled_at
