"""Measures the size of a report on disk after hours of reports. The result is the same on every machine.

Reports are stored without a server. A run against a server stores only a few dozen reports of each agent, and the first
ones, which are stored whole, would dominate.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from disk import reports_and_bytes
from kattila_manager.records import VerifiedReport
from kattila_manager.store.admin import migrating
from kattila_manager.store.decoding import decode
from kattila_manager.store.ingest.compression_groups import CompressedReport, CompressionGroups
from kattila_manager.store.ingest.filing import Filing
from kattila_manager.store.store import Store
from kattila_protocol import envelope
from kattila_protocol.names import MANAGER
from kattila_protocol.ring import Ring
from reports import Shape, bodies

AGENTS = 50
# Four hours of reports every 30 s.
SAMPLES = 480
BATCH = 32


def bytes_per_report(folder: Path, shape: Shape, ring: Ring, now: int, chance: random.Random) -> float:
    """Store four hours of reports from fifty agents in a database in `folder`, and return the bytes per report.

    now: ms UTC.
    """
    path = folder / "storage.db"
    migrating.migrate(path, path.parent, 0)
    store, groups = Store(path), CompressionGroups()
    reports = bodies(shape, AGENTS, SAMPLES, ring.current, now, chance)
    for batch in _batches(reports, groups, ring, now):
        _file(store, groups, batch)
    store.close()
    count, size = reports_and_bytes(path)
    return size / count


def _batches(
    reports: Iterator[bytes], groups: CompressionGroups, ring: Ring, now: int
) -> Iterator[list[CompressedReport]]:
    # A batch has at most one report per agent, as with real reports every 30 s.
    while batch := list(islice(reports, BATCH)):
        yield [groups.compress(_verified(body, ring, now)) for body in batch]


def _verified(body: bytes, ring: Ring, now: int) -> VerifiedReport:
    parts = envelope.parse(body)
    key = envelope.verify(parts, ring, MANAGER)
    return VerifiedReport(decode(parts.data), parts.data, bytes.fromhex(parts.mac), key, parts.relay_path, now)


def _file(store: Store, groups: CompressionGroups, batch: list[CompressedReport]) -> None:
    results = store.write(lambda connection: Filing(connection).file(batch))
    for prepared, result in zip(batch, results, strict=True):
        if result.report_id is not None:
            groups.note_commit(prepared, result.report_id)
