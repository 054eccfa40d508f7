"""All sources, one after the other, into one measurement.

May live here: the list of collectors and the one place that catches their failures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kattila_agent import config
from kattila_agent.collectors import (
    clock,
    flooding,
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
)
from kattila_agent.collectors.bounds import Bounded, cut
from kattila_agent.collectors.link_table import Brief
from kattila_agent.collectors.wireguard import collector as wireguard
from kattila_agent.collectors.wireguard.gathering import Limits as WireguardLimits
from kattila_agent.config import Limits
from kattila_agent.sampling.measurement import Measurement
from kattila_protocol.report import CollectorFailure, CollectorRun, Lookup, Telemetry, Tunnel

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
    """One source: its name in reports, the member of Telemetry that it fills, and how it is read.

    `collect` takes what is given and what the collectors before it found, and returns the member's value, in a Bounded
    if it may be cut or fail in part; whatever it raises becomes a CollectorFailure.
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
    Collector("tunnels", "tunnels", lambda given, found: _tunnels(_links(found), given.limits)),
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
            given.wireguard_helper, WireguardLimits(given.limits.peers, given.limits.allowed_ips)
        ),
    ),
    # Last: it asks for what the others found.
    Collector(
        "lookups",
        "lookups",
        lambda given, found: _lookups(found, given),
    ),
)


def measure(
    given: Given, now: int, monotonic: Callable[[], float], collectors: tuple[Collector, ...] = COLLECTORS
) -> Measurement:
    """Run all collectors; one that fails is reported as data, and the others go on.

    `now` is ms UTC; `monotonic` is a clock in seconds, by which each is timed.

    Raises:
        OSError: the kernel's boot id cannot be read, so that /proc is not what Linux mounts there.
    """
    telemetry = Telemetry(system=None)
    for collector in collectors:
        started = monotonic()
        telemetry = _collected(telemetry, collector, given)
        run = CollectorRun(collector.name, round((monotonic() - started) * 1_000_000))
        telemetry = replace(telemetry, runs=(*telemetry.runs, run))
    return Measurement(telemetry, sampled_at=now, boot_id=given.boot_id or system.read_boot_id())


def _links(found: Telemetry) -> list[Brief]:
    """Return all links; those of a node with more than are told are asked for once more."""
    is_cut = any(each.what == "interfaces" for each in found.cuts)
    if is_cut or any(failure.collector == "links" for failure in found.failures):
        return link_table.briefly()
    return [Brief(each.index, each.name, each.kind) for each in found.interfaces]


def _tunnels(links: list[Brief], limits: Limits) -> Bounded[Tunnel]:
    """Return the first tunnels, as many as interfaces may be told, whether they are told as interfaces or not."""
    among = [link for link in links if link.kind in tunnels.KINDS]
    first = among[: limits.interfaces]
    found = tunnels.parse(tunnels.read(first), {link.index: link.name for link in links})
    flooded = flooding.parse(found, flooding.read(first, limits.neighbours), limits.neighbours)
    wires = l2tp.parse(l2tp.read(links, limits.interfaces))
    told = (*flooded.items, *wires.items)
    kept, left_out = min(len(told), limits.interfaces), len(among) - len(first)
    cuts = (*flooded.cuts, *cut("tunnels", kept, len(told) + left_out))
    return Bounded(told[:kept], cuts, wires.failures)


def _lookups(found: Telemetry, given: Given) -> tuple[Lookup, ...]:
    # Read now: an endpoint may be behind a link that came after the interfaces were read.
    exits = link_table.exits_by_index()
    asked = lookups.questions(found, given.manager_address, given.manager_port, lookups.read_moved(found, exits))
    return lookups.parse(lookups.read(asked, exits), exits)


def _collected(telemetry: Telemetry, collector: Collector, given: Given) -> Telemetry:
    try:
        value = collector.collect(given, telemetry)
    except Exception as error:
        failure = CollectorFailure(collector.name, _reason(error))
        return replace(telemetry, failures=(*telemetry.failures, failure))
    if isinstance(value, Bounded):
        failures = (CollectorFailure(collector.name, reason[:_MAX_REASON]) for reason in value.failures)
        cuts, failed = (*telemetry.cuts, *value.cuts), (*telemetry.failures, *failures)
        telemetry = replace(telemetry, cuts=cuts, failures=failed)
        value = value.items
    return replace(telemetry, **{collector.member: value})


def _reason(error: Exception) -> str:
    text = str(error)
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__)[:_MAX_REASON]
