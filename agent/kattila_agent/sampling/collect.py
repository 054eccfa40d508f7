"""Runs all collectors, one after the other, and turns their failures into data."""

from __future__ import annotations

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
from kattila_agent.config import Limits
from kattila_agent.sampling.measurement import Measurement
from kattila_protocol.report import CollectorFailure, CollectorRun, Telemetry, Tunnel

_MAX_REASON = 300


@dataclass(frozen=True, slots=True)
class Given:
    """What the collectors are told: the node's labels and limits, and what the rest of the agent knows.

    `manager_address` is the IP address that reports go to, `manager_port` their TCP port, `clock_offset` that of the
    last verdict in ms; None while unknown. `wireguard_helper` and `clock_helper` are where their sockets are, if there
    are helpers. `boot_id` is that of this boot where the kernel's own word for it may not be seen.
    """

    labels: Mapping[str, str]
    limits: Limits
    manager_address: str | None = None
    clock_offset: int | None = None
    wireguard_helper: Path = config.WIREGUARD_HELPER
    clock_helper: Path = config.CLOCK_HELPER
    boot_id: str | None = None
    manager_port: int | None = None


@dataclass(frozen=True, slots=True)
class Collector:
    """One source: its name in reports, the member of Telemetry that it fills, and the function that reads it.

    `collect` also takes what earlier collectors found. It returns the member's value, as a Bounded if the value may be
    cut or may fail in part. Whatever it raises becomes a CollectorFailure.
    """

    name: str
    member: str
    collect: Callable[[Given, Telemetry], Any]


COLLECTORS: tuple[Collector, ...] = (
    Collector("system", "system", lambda given, _: system.parse(system.read(), given.labels)),
    Collector("clock", "clock", lambda given, _: clock.parse(clock.read(given.clock_helper), given.clock_offset)),
    Collector(
        "links",
        "interfaces",
        lambda given, _: links.parse(links.read(given.limits.interfaces, given.limits.addresses)),
    ),
    Collector("tunnels", "tunnels", lambda given, found: _tunnels(found, given.limits)),
    Collector("routes", "routes", lambda given, _: routes.parse(routes.read(given.limits.routes), given.limits.routes)),
    Collector("rules", "rules", lambda given, _: rules.parse(rules.read(given.limits.rules), given.limits.rules)),
    Collector(
        "policy routes",
        "policy_routes",
        lambda given, found: policy_routes.parse(
            policy_routes.read(found.rules, given.limits.routes), given.limits.routes
        ),
    ),
    Collector(
        "neighbours",
        "neighbours",
        lambda given, _: neighbours.parse(neighbours.read(given.limits.neighbours), given.limits.neighbours),
    ),
    Collector(
        "wireguard",
        "wireguard",
        lambda given, _: wireguard.collect(
            given.wireguard_helper, PeerLimits(given.limits.peers, given.limits.allowed_ips)
        ),
    ),
    # Last, because it looks up what the others found.
    Collector(
        "lookups",
        "lookups",
        lambda given, found: lookups.parse(lookups.read(found, given.manager_address, given.manager_port)),
    ),
)


def measure(
    given: Given, now: int, monotonic: Callable[[], float], collectors: tuple[Collector, ...] = COLLECTORS
) -> Measurement:
    """Run all collectors; a failure is reported as data, and the other collectors still run.

    `now` is ms UTC; `monotonic` is a clock in seconds, which times each collector.

    Raises:
        OSError: the kernel's boot id cannot be read: /proc is not mounted.
    """
    telemetry = Telemetry(system=None)
    allowed_ips: dict[tuple[str, str], int] = {}
    for collector in collectors:
        started = monotonic()
        result = _collected(collector, given, telemetry)
        run = CollectorRun(collector.name, round((monotonic() - started) * 1_000_000))
        failures = tuple(CollectorFailure(collector.name, reason[:_MAX_REASON]) for reason in result.failures)
        members: dict[str, Any] = {collector.member: result.items}
        telemetry = replace(
            telemetry,
            runs=(*telemetry.runs, run),
            cuts=(*telemetry.cuts, *result.cuts),
            failures=(*telemetry.failures, *failures),
            **members,
        )
        allowed_ips |= result.allowed_ips
    return Measurement(telemetry, now, given.boot_id or system.read_boot_id(), allowed_ips)


def _collected(collector: Collector, given: Given, found: Telemetry) -> Bounded[Any]:
    """Return what a collector found; after a failure, the member keeps its value."""
    try:
        value = collector.collect(given, found)
    except Exception as error:
        text = str(error)
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return Bounded(getattr(found, collector.member), failures=(reason,))
    return value if isinstance(value, Bounded) else Bounded(value)


def _tunnels(found: Telemetry, limits: Limits) -> Bounded[Tunnel]:
    """Return the first tunnels, at most as many as interfaces, even those that are not among the interfaces."""
    links = [LinkSummary(each.index, each.name, each.kind) for each in found.interfaces]
    if any(each.what == "interfaces" for each in found.cuts) or any(
        each.collector == "links" for each in found.failures
    ):
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
