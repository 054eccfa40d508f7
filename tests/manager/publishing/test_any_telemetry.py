"""Whatever agents report within the bounds of the protocol, everything is published."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from support.any_telemetry import any_telemetry
from support.fleet import MINUTE, NOON, Fleet
from support.publisher import ONE, TWO, cycle, listen, page
from support.reports import node, report

LIARS = range(3, 11)


@pytest.mark.parametrize("seed", range(8))
def test_any_telemetry_is_published(fleet: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    for number in LIARS:
        content = replace(report(node(number), 1, NOON), telemetry=any_telemetry(chance))
        assert fleet.file(content).outcome == "accepted"
    for now in (NOON, NOON + MINUTE):
        listen(fleet, now)
        for sender in (ONE, TWO):
            fleet.file(report(sender, 2 + (now - NOON) // MINUTE, now))
        assert cycle(fleet, now).failures == ()
    shown = page(fleet)
    assert all(sender.hostname in shown for sender in (ONE, TWO))
    assert all(node(number).agent_id in shown for number in LIARS)
