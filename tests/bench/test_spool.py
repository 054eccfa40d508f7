"""The spool's benchmark works with a few samples, and both spools return what they stored."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import spool
from reports import Shape
from spool import Cost


@pytest.mark.parametrize("kind", spool.KINDS)
def test_both_kinds_return_what_they_stored(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "RESULTS", tmp_path)
    cost = spool.measure(kind, list(spool.make_samples(Shape(), spool.EXTRA_SAMPLES + 100, random.Random(1))))
    assert cost.kind == kind and min(cost.put, cost.put_full, cost.start, cost.drain, cost.mib) > 0


def test_the_ratio_compares_medians() -> None:
    costs = [Cost("files", *[each] * 7) for each in (1.0, 9.0, 3.0)] + [Cost("sqlite", *[6.0] * 7)]
    assert spool.table("title", costs).splitlines()[1].split()[-3:] == ["3.00", "6.00", "0.50"]
