"""Runs all collectors, one after the other, and turns their failures into data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kattila_agent import config
from kattila_agent.collectors import (
    clock,
    l2tp,
    link_table,
    links,
    lookups,
    neighbours,
    policy_routes,
    routes,
    rules,
    system,
    tunnels,
    vxlan_remotes,
)
from kattila_agent.collectors.limits import Bounded, cut
from kattila_agent.collectors.link_table import LinkSummary
from kattila_agent.collectors.wireguard import collector as wireguard
from kattila_agent.collectors.wireguard.builder import PeerLimits
from kattila_agent.config import Config, Limits, port_of
from kattila_agent.runtime import Runtime
from kattila_agent.sampling.measurement import Measurement
from kattila_agent.sampling.ranges import in_bounds
from kattila_protocol.bounds import MAX_REASON
from kattila_protocol.report import CollectorFailure, CollectorRun, HeldKey, Telemetry, Tunnel

# More failures of one collector are only counted, so that those of all collectors fit into a report.
_MOST_FAILURES = 16

_log = logging.getLogger("kattila.agent")


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of the collectors: settings, clocks, and facts from the rest of the agent.

    `manager_address` is the IP address that reports go to, `manager_port` its TCP port, and `clock_offset` that of the
    last verdict in ms; they are None while unknown. `wireguard_helper` and `clock_helper` are the helpers' sockets.
    `boot_id` identifies this boot where the agent may not read the kernel's own file. `interval_seconds` is the report
    interval, None for a command that measures once. `keys` are those that the agent holds.
    """

    labels: Mapping[str, str]
    limits: Limits
    runtime: Runtime
    manager_address: str | None = None
    clock_offset: int | None = None
    wireguard_helper: Path = config.WIREGUARD_HELPER
    clock_helper: Path = config.CLOCK_HELPER
    boot_id: str | None = None
    manager_port: int | None = None
    interval_seconds: int | None = None
    keys: tuple[HeldKey, ...] = ()

    @classmethod
    def of(cls, settings: Config, runtime: Runtime, manager_address: str | None = None) -> Inputs:
        """Return the inputs that the settings define."""
        return cls(
            labels=settings.labels,
            limits=settings.limits,
            runtime=runtime,
            manager_address=manager_address,
            wireguard_helper=settings.wireguard_helper,
            clock_helper=settings.clock_helper,
            boot_id=settings.boot_id,
            manager_port=port_of(settings.manager_url) if settings.manager_url else None,
            interval_seconds=settings.interval_seconds,
        )

    def with_boot_id(self) -> Inputs:
        """Return inputs for this run of the program; if the kernel's boot id cannot be read, a new one stands for it.

        A report without a boot id would be none at all.
        """
        try:
            return self if self.boot_id else replace(self, boot_id=system.read_boot_id())
        except OSError as error:
            _log.warning("%s; this start counts as a reboot: set %s", error, config.BOOT_ID_VARIABLE)
            return replace(self, boot_id=self.runtime.new_id())


@dataclass(frozen=True, slots=True)
class Collector:
    """One source: its name in reports, the member of Telemetry that it fills, and the function that reads it.

    `collect` also takes what earlier collectors found. It returns the member's value, as a Bounded if the value may be
    cut or may fail in part. Whatever it raises becomes a CollectorFailure.
    """

    name: str
    member: str
    collect: Callable[[Inputs, Telemetry], Any]


COLLECTORS: tuple[Collector, ...] = (
    Collector("system", "system", lambda inputs, _: system.parse(system.read(), inputs.labels)),
    Collector("clock", "clock", lambda inputs, _: clock.parse(clock.read(inputs.clock_helper), inputs.clock_offset)),
    Collector(
        "links",
        "interfaces",
        lambda inputs, _: links.parse(links.read(inputs.limits.interfaces, inputs.limits.addresses)),
    ),
    Collector("tunnels", "tunnels", lambda inputs, found: _tunnels(found, inputs.limits)),
    Collector(
        "routes", "routes", lambda inputs, _: routes.parse(routes.read(inputs.limits.routes), inputs.limits.routes)
    ),
    Collector("rules", "rules", lambda inputs, _: rules.parse(rules.read(inputs.limits.rules), inputs.limits.rules)),
    Collector(
        "policy routes",
        "policy_routes",
        lambda inputs, found: policy_routes.parse(
            policy_routes.read(found.rules, inputs.limits.routes), inputs.limits.routes
        ),
    ),
    Collector(
        "neighbours",
        "neighbours",
        lambda inputs, found: neighbours.parse(
            neighbours.read(
                inputs.limits.neighbours, [*found.routes, *found.policy_routes], inputs.runtime.since_boot_ms
            ),
            inputs.limits.neighbours,
        ),
    ),
    Collector(
        "wireguard",
        "wireguard",
        lambda inputs, _: wireguard.collect(
            inputs.wireguard_helper, PeerLimits(inputs.limits.peers, inputs.limits.allowed_ips), inputs.runtime.now
        ),
    ),
    # Last, because it looks up what the others found.
    Collector(
        "lookups",
        "lookups",
        lambda inputs, found: lookups.parse(lookups.read(found, inputs.manager_address, inputs.manager_port)),
    ),
)


def measure(inputs: Inputs, collectors: tuple[Collector, ...] = COLLECTORS) -> Measurement:
    """Run all collectors.

    A failure is reported as data, and the other collectors still run.

    Raises:
        OSError: the kernel's boot id cannot be read: /proc is not mounted.
    """
    now, monotonic, since_boot_ms = inputs.runtime.now(), inputs.runtime.monotonic, inputs.runtime.since_boot_ms()
    telemetry = Telemetry(
        system=None, interval_seconds=inputs.interval_seconds, since_boot_ms=since_boot_ms, keys=inputs.keys
    )
    allowed_ips: dict[tuple[str, str], int] = {}
    for collector in collectors:
        started = monotonic()
        result = _collected(collector, inputs, telemetry)
        marks = {name: (*getattr(telemetry, name), *marks) for name, marks in result.marks.items()}
        members, left_out = in_bounds({collector.member: result.items} | marks, telemetry)
        run = CollectorRun(collector.name, round((monotonic() - started) * 1_000_000))
        reasons = (*left_out, *result.failures)
        if len(reasons) > _MOST_FAILURES:
            reasons = (*reasons[:_MOST_FAILURES], f"and {len(reasons) - _MOST_FAILURES} more")
        failures = tuple(CollectorFailure(collector.name, reason[:MAX_REASON]) for reason in reasons)
        telemetry = replace(
            telemetry,
            runs=(*telemetry.runs, run),
            cuts=(*telemetry.cuts, *result.cuts),
            failures=(*telemetry.failures, *failures),
            **members,
        )
        allowed_ips |= result.allowed_ips
    return Measurement(telemetry, now, inputs.boot_id or system.read_boot_id(), since_boot_ms, allowed_ips)


def _collected(collector: Collector, inputs: Inputs, found: Telemetry) -> Bounded[Any]:
    """Return what a collector found; after a failure, the member keeps its value."""
    try:
        value = collector.collect(inputs, found)
    except Exception as error:
        text = str(error)
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return Bounded(getattr(found, collector.member), failures=(reason,))
    return value if isinstance(value, Bounded) else Bounded(value)


def _tunnels(found: Telemetry, limits: Limits) -> Bounded[Tunnel]:
    """Return the first tunnels, at most as many as interfaces, even those that are not among the interfaces."""
    links = [LinkSummary(each.index, each.name, each.kind) for each in found.interfaces]
    is_cut = any(each.what == "interfaces" for each in found.cuts)
    if is_cut or any(failure.collector == "links" for failure in found.failures):
        links = list(link_table.read_by_index(link_table.summary).values())
    among = [link for link in links if link.kind in tunnels.KINDS]
    first = among[: limits.interfaces]
    bodies = list(link_table.read_each(link.index for link in first))
    plain = tunnels.parse(bodies, {link.index: link.name for link in links})
    with_remotes = vxlan_remotes.parse(plain, vxlan_remotes.read(first, limits.neighbours), limits.neighbours)
    pseudowires = l2tp.parse(l2tp.read(links, limits.interfaces))
    reported = (*with_remotes.items, *pseudowires.items)
    kept, left_out = min(len(reported), limits.interfaces), len(among) - len(first)
    cuts = (*with_remotes.cuts, *cut("tunnels", kept, len(reported) + left_out))
    return Bounded(reported[:kept], cuts, pseudowires.failures)
