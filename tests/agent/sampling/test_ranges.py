"""Values out of bounds are left out of a report, with a failure that says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kattila_agent.collectors.limits import Bounded
from kattila_agent.config import default_limits
from kattila_agent.sampling import fitting
from kattila_agent.sampling.collect import Collector, Inputs, measure
from kattila_agent.sampling.ranges import in_bounds
from kattila_manager.store.decoding import decode
from kattila_protocol import canonical
from kattila_protocol.bounds import MAX_ENTRIES, member_types
from kattila_protocol.report import Interface, Neighbour, RouteMark, Telemetry, WireguardInterface, WireguardPeer
from protocol.samples import REPORT
from support.runtime import FIXED

NOTHING = Telemetry(system=None)
LINK = Interface(1, "eth0", None, ("UP",), "UP", 1500, None, ("192.0.2.1/24",))
PEER = WireguardPeer("key", None, ("192.0.2.0/24",), 0, 0, 0, 0, False)
SYSTEM = REPORT.telemetry.system
assert SYSTEM is not None


def test_the_sample_report_is_not_changed() -> None:
    members = {name: getattr(REPORT.telemetry, name) for name in member_types(Telemetry)}
    assert in_bounds(members, NOTHING) == (members, ())


@pytest.mark.parametrize(
    ("member", "found", "kept", "failure"),
    [
        (
            "neighbours",
            (Neighbour("192.0.2.1", None, "x" * 61, "STALE"), Neighbour("192.0.2.2", None, "x" * 60, "STALE")),
            (Neighbour("192.0.2.2", None, "x" * 60, "STALE"),),
            "1 left out, the first because interface is longer than 60",
        ),
        (
            "interfaces",
            (replace(LINK, flags=("UP",) * 33), replace(LINK, addresses=("x" * 50, "192.0.2.1/24"))),
            (replace(LINK, flags=("UP",) * 32), LINK),
            "2 left out, the first because flags is longer than 32",
        ),
        (
            "wireguard",
            (WireguardInterface("wg0", "", 1, 0, (PEER._replace(latest_handshake=-1), PEER)),),
            (WireguardInterface("wg0", "", 1, 0, (PEER,)),),
            "1 left out, the first because latest_handshake is not from 0 to 9223372036854775807",
        ),
        (
            "route_marks",
            (RouteMark(254, "::/0", None, None, -1, ()), RouteMark(254, "::/0", None, None, 1, ("dead",) * 9)),
            (RouteMark(254, "::/0", None, None, 1, ("dead",) * 8),),
            "2 left out, the first because metric is not from 0 to 4294967295",
        ),
        ("system", replace(SYSTEM, kernel="x" * 65), None, "1 left out, the first because kernel is longer than 64"),
        (
            "system",
            replace(SYSTEM, labels={"x" * 64: "1", "site": "x" * 256, "role": "gateway"}),
            replace(SYSTEM, labels={"role": "gateway"}),
            "2 left out, the first because labels is longer than 63",
        ),
    ],
)
def test_only_what_is_out_of_bounds_is_left_out(member: str, found: Any, kept: Any, failure: str) -> None:
    assert in_bounds({member: found}, NOTHING) == ({member: kept}, (failure,))


def test_a_member_of_any_length_is_left_to_fitting() -> None:
    found = {"neighbours": (Neighbour("192.0.2.1", None, "eth0", "STALE"),) * (MAX_ENTRIES + 1)}
    assert in_bounds(found, NOTHING) == (found, ())


def test_the_marks_of_a_collector_are_compared_too() -> None:
    marks = {"route_marks": (RouteMark(254, "::/0", None, None, -1, ()),)}
    routes = Collector("routes", "routes", lambda *_: Bounded((), marks=marks))
    found = measure(Inputs({}, default_limits(), FIXED), (routes,)).telemetry
    assert (found.route_marks, len(found.failures)) == ((), 1)


# As many userspace WireGuard devices may fail, each for its own reason.
def test_a_report_has_room_for_the_failures_of_all_collectors() -> None:
    reasons = tuple(f"wg{number}: {'x' * 1000}" for number in range(1000))
    collectors = tuple(
        Collector(f"collector {number}", "routes", lambda *_: Bounded((), failures=reasons)) for number in range(12)
    )
    found = measure(Inputs({}, default_limits(), FIXED), collectors).telemetry
    assert found.failures[16].reason == "and 984 more"
    telemetry = fitting.encode(found, {})
    data = canonical.encode(REPORT).replace(canonical.encode(REPORT.telemetry), telemetry)
    assert decode(data).telemetry.failures == found.failures
