"""The benchmark's reports are valid and have the intended size."""

from __future__ import annotations

import random

import msgspec
import pytest

from kattila_protocol.envelope import parse, verify
from kattila_protocol.names import MANAGER
from kattila_protocol.report import Report
from kattila_protocol.ring import Ring
from reports import SHAPES, bodies

NOW = 1_763_900_000_000
RING = Ring().with_current(b"a psk of the tests", NOW)


def make(shape: str, agents: int = 3, samples: int = 4, seed: int = 7) -> list[bytes]:
    return list(bodies(SHAPES[shape], agents, samples, RING.current, NOW, random.Random(seed)))


def read(body: bytes) -> Report:
    return msgspec.json.decode(parse(body).data, type=Report).check()


def test_the_same_seed_makes_the_same_bytes() -> None:
    assert make("full") == make("full")
    assert make("full") != make("full", seed=8)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_body_verifies_and_has_its_shape(shape: str) -> None:
    for body in make(shape):
        verify(parse(body), RING, MANAGER)
        telemetry = read(body).telemetry
        counts = len(telemetry.interfaces), len(telemetry.routes), len(telemetry.wireguard[0].peers)
        assert counts == (SHAPES[shape].interfaces, SHAPES[shape].routes, SHAPES[shape].peers)


@pytest.mark.parametrize(("shape", "about"), [("full", 5_720), ("small", 2_150)])
def test_a_shape_has_about_its_size(shape: str, about: int) -> None:
    assert 0.95 < len(parse(make(shape)[-1]).data) / about < 1.05


def test_samples_are_in_order_and_the_last_is_signed_now() -> None:
    reports = [read(body) for body in make("full")]
    assert [(report.sample, report.tick) for report in reports] == [(1 + n // 3, 1 + n // 3) for n in range(12)]
    assert len({report.nonce for report in reports}) == 12
    assert reports[-1].timestamp == NOW
    assert min(report.timestamp for report in reports) >= NOW - 4 * 60 * 1000


def test_only_busy_peers_change_between_samples() -> None:
    before, after = (read(body).telemetry.wireguard[0].peers for body in make("full", agents=1, samples=2))
    changed = [old != new for old, new in zip(before, after, strict=True)]
    assert changed == [True] * 10 + [False] * 10
