"""DATA of a report: its members, their order, and their bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kattila_protocol import canonical, envelope
from kattila_protocol.envelope import MAX_BODY_BYTES
from kattila_protocol.errors import Malformed
from kattila_protocol.members import build
from kattila_protocol.names import MAX_COUNTER
from kattila_protocol.report import Report, Route, WireguardInterface, WireguardPeer
from protocol.samples import KEY, NOW, REPORT


def test_members_are_encoded_in_the_order_of_definition() -> None:
    data = canonical.encode(REPORT)
    assert data.startswith(b'{"agent_id":"5f0c7a3e-1b2d-4c8e-9a6f-0123456789ab","sample":41,"tick":1041,"nonce":"0011')
    assert list(canonical.parse_object(data)) == [
        *("agent_id", "sample", "tick", "nonce", "timestamp", "sampled_at", "boot_id", "telemetry")
    ]


def test_an_encoded_report_is_strict_json() -> None:
    members = canonical.parse_object(canonical.encode(REPORT))
    assert members["telemetry"]["system"]["hostname"] == "käsi.example.org"
    assert members["telemetry"]["system"]["load"] == [12, 34, 56]


ROWS = {
    "routes": ["0.0.0.0/0", "192.0.2.254", "eth0", None, 100, "dhcp", "unicast"],
    "neighbours": ["192.0.2.254", "00:00:5e:00:53:fe", "eth0", "REACHABLE"],
    "peers": [
        "RXhhbXBsZSBwdWJsaWMga2V5IG9mIHRoZSBvdGhlciE=",
        *("198.51.100.7:51820", ["2001:db8::2/128"], 1_759_999_950, 1_234, 5_678, 25, True),
    ],
    "lookups": ["wireguard", "wg0", "198.51.100.7", 51820, "eth0", "192.0.2.254", "192.0.2.1", 1500, 254, None],
}


def test_routes_neighbours_peers_and_lookups_are_rows() -> None:
    telemetry = canonical.parse_object(canonical.encode(REPORT))["telemetry"]
    lists = {**telemetry, "peers": telemetry["wireguard"][0]["peers"]}
    assert {name: lists[name][0] for name in ROWS} == ROWS


# An agent of the first version sends none of these members.
def test_a_report_from_an_older_agent_takes_defaults() -> None:
    members = canonical.parse_object(canonical.encode(REPORT))
    telemetry = members["telemetry"]
    for name in ("tunnels", "rules", "lookups", "clock", "cuts", "runs"):
        del telemetry[name]
    telemetry["interfaces"] = [dict(list(link.items())[:12]) for link in telemetry["interfaces"]]
    read = build(Report, members).telemetry
    assert (read.tunnels, read.rules, read.lookups, read.clock, read.cuts, read.runs) == ((), (), (), None, (), ())
    assert read.interfaces[0] == REPORT.telemetry.interfaces[0]


# All addresses have the maximum length, and each peer one AllowedIP.
def test_5000_routes_and_300_peers_fit_into_a_body() -> None:
    address, key = ":".join(["2001", "db8", *["ffff"] * 6]), "RXhhbXBsZSBwdWJsaWMga2V5IG9mIHRoZSBvdGhlciE="
    route = Route(f"{address}/128", address, "wireguard-north", address, 2**32 - 1, "kernel", "unreachable")
    peer = WireguardPeer(key, f"[{address}]:51820", (f"{address}/128",), NOW // 1000, 10**15, 10**15, 65535, True)
    tunnel = WireguardInterface("wireguard-north", key, 51820, 2**32 - 1, (peer,) * 300)
    large = replace(REPORT, telemetry=replace(REPORT.telemetry, routes=(route,) * 5000, wireguard=(tunnel,)))
    assert len(envelope.seal(canonical.encode(large), KEY).to_bytes()) < MAX_BODY_BYTES


def test_a_valid_report_passes_its_check() -> None:
    assert REPORT.check() is REPORT
    largest = replace(REPORT, sample=MAX_COUNTER, tick=MAX_COUNTER, timestamp=0, sampled_at=0)
    assert largest.check() is largest


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("agent_id", "manager"),
        ("agent_id", REPORT.agent_id.upper()),
        ("sample", 0),
        ("sample", MAX_COUNTER + 1),
        ("sample", True),
        ("tick", 0),
        ("tick", -1),
        ("tick", MAX_COUNTER + 1),
        ("nonce", ""),
        ("nonce", "0" * 31),
        ("timestamp", -1),
        ("timestamp", MAX_COUNTER + 1),
        ("sampled_at", -1),
        ("boot_id", "boot"),
    ],
)
def test_a_member_out_of_bounds_is_refused_by_name(member: str, value: Any) -> None:
    broken: Report = replace(REPORT, **{member: value})
    with pytest.raises(Malformed, match=f"^{member} is not"):
        broken.check()
