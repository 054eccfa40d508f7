"""All sources, one after the other, into one measurement.

May live here: the list of collectors and the one place that catches their failures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kattila_agent.collectors import links, routes, system
from kattila_agent.measurement import Measurement
from kattila_protocol.report import CollectorFailure, Telemetry

_MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class Collector:
    """One source: its name in reports, the member of Telemetry that it fills, and how it is read.

    `collect` takes the labels of this node's settings and returns the member's value; whatever it raises becomes a
    CollectorFailure.
    """

    name: str
    member: str
    collect: Callable[[Mapping[str, str]], Any]


COLLECTORS: tuple[Collector, ...] = (
    Collector("system", "system", lambda labels: system.parse(system.read(), labels)),
    Collector("links", "interfaces", lambda _: links.parse(*links.read())),
    Collector("routes", "routes", lambda _: routes.parse(*routes.read())),
)


def measure(labels: Mapping[str, str], now: int, collectors: tuple[Collector, ...] = COLLECTORS) -> Measurement:
    """Run all collectors; one that fails is reported as data, and the others go on.

    Raises:
        OSError: the kernel's boot id cannot be read, so that /proc is not what Linux mounts there.
    """
    telemetry = Telemetry(system=None)
    for collector in collectors:
        telemetry = _collected(telemetry, collector, labels)
    return Measurement(telemetry, sampled_at=now, boot_id=system.read_boot_id())


def _collected(telemetry: Telemetry, collector: Collector, labels: Mapping[str, str]) -> Telemetry:
    try:
        value = collector.collect(labels)
    except Exception as error:
        failure = CollectorFailure(collector.name, _reason(error))
        return replace(telemetry, failures=(*telemetry.failures, failure))
    return replace(telemetry, **{collector.member: value})


def _reason(error: Exception) -> str:
    text = str(error)
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__)[:_MAX_REASON]
