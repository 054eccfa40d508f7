from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import OLD_KEY, ONE, THREE, TWO
from support.fleet import Fleet, fleet_in
from support.manager import Manager, now_ms
from support.reports import KEY, report, ring_of


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    """Return a manager in a folder with a ring of two keys."""
    return Manager(tmp_path, ring=ring_of(KEY, OLD_KEY))


@pytest.fixture
def fleet(manager: Manager) -> Iterator[Fleet]:
    """Return its database, with three agents that reported a second ago."""
    now = now_ms()
    with fleet_in(manager.folder) as made:
        made.beat(now)
        for sender, key in ((ONE, KEY), (TWO, OLD_KEY), (THREE, KEY)):
            for sample in (1, 2):
                made.file(report(sender, sample, now - 3000 + 1000 * sample), key=key)
        yield made
