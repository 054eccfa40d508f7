"""One measurement as it waits to be sent, and the DATA of its report. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kattila_protocol import canonical
from kattila_protocol.names import checked_counter, checked_id, checked_nonce

# Two clocks that are not set differ by less.
_SET_MS = 1000


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment by all clocks that matter to a sample.

    `now` is ms UTC by the node's clock, which may be wrong. `boot_id` is the kernel's. `since_boot_ms` is the reading
    of CLOCK_BOOTTIME, which is never set, so that it gives true durations within a boot.
    """

    now: int
    boot_id: str
    since_boot_ms: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement as it waits to be sent, unsigned.

    `number` is assigned when the sample is measured, and never used twice under an id. `sampled_at` is ms UTC by the
    clock of that moment; `boot_id` and `since_boot_ms` are those of a Moment. `telemetry` is DATA's encoded member.
    """

    number: int
    sampled_at: int
    boot_id: str
    since_boot_ms: int
    telemetry: bytes


@dataclass(frozen=True, slots=True)
class Signing:
    """What one message adds to a sample: the sender's id, tick, nonce and moment."""

    agent_id: str
    tick: int
    nonce: str
    moment: Moment


def encode(sample: Sample, signing: Signing) -> bytes:
    """Return the DATA of this sample's report, its members in the protocol's order.

    The telemetry stays as it was encoded when it was measured. `boot_id` is that of the boot that signs, by which the
    manager recognizes machines; `sampled_at` is corrected (see `corrected_sampled_at`).

    Raises:
        Malformed: a member is out of range.
    """
    head = canonical.encode({
        "agent_id": checked_id(signing.agent_id, "agent_id"),
        "sample": checked_counter(sample.number, "sample", minimum=1),
        "tick": checked_counter(signing.tick, "tick", minimum=1),
        "nonce": checked_nonce(signing.nonce),
        "timestamp": checked_counter(signing.moment.now, "timestamp"),
        "sampled_at": checked_counter(corrected_sampled_at(sample, signing.moment), "sampled_at"),
        "boot_id": checked_id(signing.moment.boot_id, "boot_id"),
    })  # fmt: skip
    return b'%s,"telemetry":%s}' % (head[:-1], sample.telemetry)


def corrected_sampled_at(sample: Sample, moment: Moment) -> int:
    """Return when a sample was measured (ms UTC) by the clock of a later moment.

    Within a boot the time since then is known, and shows whether the clock was set meanwhile. For an earlier boot the
    clock's reading of that time is all there is.
    """
    if sample.boot_id != moment.boot_id:
        return sample.sampled_at
    by_now = max(0, moment.now - max(0, moment.since_boot_ms - sample.since_boot_ms))
    return by_now if abs(by_now - sample.sampled_at) > _SET_MS else sample.sampled_at
