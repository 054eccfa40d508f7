"""Fixtures for the tests of the publisher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fleet import DAY, NOON, SECOND, Fleet, fleet_in
from support.publisher import ONE, TWO, listen
from support.reports import report


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Yield a fleet whose server has been listening for a day until noon, and whose first two agents report."""
    with fleet_in(tmp_path) as made:
        made.beat(NOON - DAY)
        listen(made, NOON)
        for sender in (ONE, TWO):
            made.file(report(sender, 1, NOON - SECOND))
        yield made
