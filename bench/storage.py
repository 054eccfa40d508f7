"""Bytes that a report takes on disk once a fleet has reported for hours: the same number on every machine.

May live here: filing reports without a server. A run against a server stores a few dozen reports of each agent at most,
of which the first, whole ones take the larger part.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from disk import reports_and_bytes
from kattila_manager.ingest import inbox
from kattila_manager.store import migrating
from kattila_manager.store.ingest.filing import Filing
from kattila_manager.store.ingest.groups import Groups, Prepared
from kattila_manager.store.store import Store
from kattila_protocol.ring import Ring
from reports import Shape, bodies

AGENTS = 50
# Four hours of reports every 30 s.
SAMPLES = 480
BATCH = 32


def bytes_per_report(folder: Path, shape: Shape, ring: Ring, now: int, chance: random.Random) -> float:
    """File four hours of reports of fifty agents into a database in `folder`; `now` is ms UTC."""
    path = folder / "storage.db"
    migrating.migrate(path, path.parent, 0)
    store, groups = Store(path), Groups()
    made = bodies(shape, AGENTS, SAMPLES, ring.current, now, chance)
    for batch in _batches(made, groups, ring, now):
        _file(store, groups, batch)
    store.close()
    reports, size = reports_and_bytes(path)
    return size / reports


def _batches(made: Iterator[bytes], groups: Groups, ring: Ring, now: int) -> Iterator[list[Prepared]]:
    # A batch holds an agent once, as where it reports every 30 s.
    while batch := list(islice(made, BATCH)):
        yield [groups.prepare(inbox.read(*inbox.open_envelope(body, ring), now)) for body in batch]


def _file(store: Store, groups: Groups, batch: list[Prepared]) -> None:
    agent_ids = [prepared.incoming.report.agent_id for prepared in batch]
    results = store.write(lambda connection: Filing(connection, agent_ids).file(batch))
    for prepared, result in zip(batch, results, strict=True):
        if result.report_id is not None:
            groups.committed(prepared, result.report_id)
