"""One measurement as a value, and the DATA that says it.

May live here: what becomes of telemetry on its way into a report. Not here: how it is measured (collectors) or carried
(delivery).
"""

from __future__ import annotations

from dataclasses import dataclass

from kattila_protocol.registration import MAX_HARDWARE_ADDRESSES, hardware_addresses
from kattila_protocol.report import Report, Telemetry


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run of all collectors found: `sampled_at` is ms UTC, `boot_id` the kernel's."""

    telemetry: Telemetry
    sampled_at: int
    boot_id: str

    def report(self, *, agent_id: str, sample: int, tick: int, nonce: str, timestamp: int) -> Report:
        """Return the report that says this measurement, checked; raises Malformed if a member is out of bounds."""
        return Report(
            agent_id=agent_id,
            sample=sample,
            tick=tick,
            nonce=nonce,
            timestamp=timestamp,
            sampled_at=self.sampled_at,
            boot_id=self.boot_id,
            telemetry=self.telemetry,
        ).check()

    @property
    def hostname(self) -> str:
        """The node's name, empty if the system could not be read."""
        return self.telemetry.system.hostname if self.telemetry.system else ""

    @property
    def own_addresses(self) -> frozenset[str]:
        """The IP addresses of all interfaces, without their prefix lengths."""
        addresses = (address for interface in self.telemetry.interfaces for address in interface.addresses)
        return frozenset(address.partition("/")[0] for address in addresses)

    @property
    def hardware_addresses(self) -> tuple[str, ...]:
        """What tells this machine from another, sorted."""
        return tuple(sorted(hardware_addresses(self.telemetry.interfaces))[:MAX_HARDWARE_ADDRESSES])
