"""One measurement as a value.

May live here: what the rest of the agent asks of it. Not here: how it is measured (collectors), or what becomes of it
(sample).
"""

from __future__ import annotations

from dataclasses import dataclass

from kattila_protocol.registration import MAX_HARDWARE_ADDRESSES, identifying_addresses
from kattila_protocol.report import Telemetry


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run of all collectors found: `sampled_at` is ms UTC, `boot_id` the kernel's."""

    telemetry: Telemetry
    sampled_at: int
    boot_id: str

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
        return tuple(sorted(identifying_addresses(self.telemetry.interfaces))[:MAX_HARDWARE_ADDRESSES])
