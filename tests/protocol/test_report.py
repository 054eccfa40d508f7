"""DATA: its members, their order, and the checks on those that the protocol reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kattila_protocol import canonical
from kattila_protocol.errors import Malformed
from kattila_protocol.names import MAX_COUNTER
from kattila_protocol.report import Report
from protocol.samples import REPORT


def test_members_stand_in_the_order_of_the_definition() -> None:
    data = canonical.encode(REPORT)
    assert data.startswith(b'{"agent_id":"5f0c7a3e-1b2d-4c8e-9a6f-0123456789ab","sample":41,"tick":1041,"nonce":"0011')
    assert list(canonical.parse_object(data)) == [
        *("agent_id", "sample", "tick", "nonce", "timestamp", "sampled_at", "boot_id", "telemetry")
    ]


def test_a_whole_report_reads_strictly() -> None:
    members = canonical.parse_object(canonical.encode(REPORT))
    assert members["telemetry"]["wireguard"][0]["peers"][0]["has_preshared_key"] is True
    assert members["telemetry"]["system"]["hostname"] == "käsi.example.org"
    assert members["telemetry"]["system"]["load"] == [12, 34, 56]


def test_good_report_passes_its_check() -> None:
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
def test_member_out_of_its_bounds_is_named(member: str, value: Any) -> None:
    broken: Report = replace(REPORT, **{member: value})
    with pytest.raises(Malformed, match=f"^{member} is not"):
        broken.check()
