"""One measurement as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kattila_protocol.registration import MAX_HARDWARE_ADDRESSES, identifying_addresses
from kattila_protocol.report import Telemetry


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run of all collectors found.

    `sampled_at` (ms UTC) and `since_boot_ms` (CLOCK_BOOTTIME) are the clocks when it began; `boot_id` is the kernel's.
    `allowed_ips` counts the AllowedIPs of each peer of which not all were read, by interface and public key. The cuts
    of a report do not name the interface.
    """

    telemetry: Telemetry
    sampled_at: int
    boot_id: str
    since_boot_ms: int
    allowed_ips: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def hostname(self) -> str:
        """The node's name, empty if it could not be read."""
        return self.telemetry.system.hostname if self.telemetry.system else ""

    @property
    def own_addresses(self) -> frozenset[str]:
        """The IP addresses of all interfaces, without prefix lengths."""
        addresses = (address for interface in self.telemetry.interfaces for address in interface.addresses)
        return frozenset(address.partition("/")[0] for address in addresses)

    @property
    def hardware_addresses(self) -> tuple[str, ...]:
        """The hardware addresses that identify this machine, sorted."""
        return tuple(sorted(identifying_addresses(self.telemetry.interfaces))[:MAX_HARDWARE_ADDRESSES])
