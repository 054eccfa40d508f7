"""Measures what a day of samples costs on disk, in the agent's spool and in an SQLite file: `make bench-spool`.

A non-zero exit code means that something failed, not that it was slow.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from disk import filesystem, fsync_ms
from kattila_agent.spool import Spool
from kattila_agent.spool.dropping import disk_bytes
from kattila_agent.spool.sample import Moment, Sample
from kattila_protocol import canonical, envelope
from kattila_protocol.signing import Key
from reports import Shape, bodies

# A day of reports, one every 30 seconds.
SAMPLES = 2880
# Samples that are put into a full spool.
EXTRA_SAMPLES = 200
RESULTS = Path(__file__).resolve().parent / "results"
SHAPES = {"a node of 7 kB": Shape(), "a node of 60 kB": Shape(interfaces=20, routes=200, peers=180, busy_peers=90)}
_KEY = Key.from_psk(b"of the benchmark, protects nothing")
_BOOT = "b0000000-0000-4000-8000-000000000000"
_NOW = 1_790_000_000_000
_CLOCK = Moment(_NOW, _BOOT, 90_000_000)


class Store(Protocol):
    """A spool to measure. Creating one on an existing folder is what happens when the agent starts."""

    def put(self, sample: Sample) -> None:
        """Store a sample durably; drop the oldest if the spool is full."""

    def numbers(self) -> Sequence[int]:
        """Return the numbers of the stored samples."""

    def read(self, number: int) -> Sample | None:
        """Return a sample."""

    def remove(self, number: int) -> None:
        """Remove a delivered sample; it may return after a power cut, which is harmless."""

    def close(self) -> None:
        """Close the spool."""


class Files:
    """The agent's spool."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._spool = Spool(folder / "spool", max_bytes, 86_400)
        self.numbers, self.read, self.remove, self.close = (
            self._spool.numbers,
            self._spool.read,
            self._spool.remove,
            self._spool.close,
        )

    def put(self, sample: Sample) -> None:
        """Store a sample."""
        self._spool.put(sample, _CLOCK)


class Sqlite:
    """A spool in one SQLite table with WAL: a durable commit for each put, and compressed telemetry."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._connection = sqlite3.connect(folder / "spool.db", isolation_level=None)
        self._max_bytes = max_bytes
        for statement in (
            "PRAGMA journal_mode = WAL",
            "CREATE TABLE IF NOT EXISTS samples (number INTEGER PRIMARY KEY, sampled_at INTEGER NOT NULL, "
            "boot_id TEXT NOT NULL, since_boot_ms INTEGER NOT NULL, crc INTEGER NOT NULL, telemetry BLOB NOT NULL)",
            "CREATE TABLE IF NOT EXISTS ledger (dropped INTEGER NOT NULL)",
        ):
            self._connection.execute(statement)
        # SQLite has no checksums. The agent's spool verifies its files at the start, so the rows are verified here.
        rows = self._connection.execute("SELECT number, crc, telemetry FROM samples")
        self._bytes = {number: disk_bytes(len(data)) for number, crc, data in rows if zlib.crc32(data) == crc}

    def put(self, sample: Sample) -> None:
        """Store a sample, and drop and count the oldest in the same transaction."""
        data = zlib.compress(sample.telemetry)
        self._bytes[sample.number] = disk_bytes(len(data))
        row = (sample.number, sample.sampled_at, sample.boot_id, sample.since_boot_ms, zlib.crc32(data), data)
        with self._transaction("FULL"):
            while sum(self._bytes.values()) > self._max_bytes:
                oldest = min(self._bytes)
                del self._bytes[oldest]
                self._connection.execute("DELETE FROM samples WHERE number = ?", (oldest,))
                self._connection.execute("UPDATE ledger SET dropped = dropped + 1")
            self._connection.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)", row)

    def numbers(self) -> Sequence[int]:
        """Return the numbers of the stored samples."""
        return sorted(self._bytes)

    def read(self, number: int) -> Sample | None:
        """Return a sample."""
        query = "SELECT number, sampled_at, boot_id, since_boot_ms, telemetry FROM samples WHERE number = ?"
        _, sampled_at, boot_id, since_boot_ms, data = self._connection.execute(query, (number,)).fetchone()
        return Sample(number, sampled_at, boot_id, since_boot_ms, zlib.decompress(data))

    def remove(self, number: int) -> None:
        """Remove a sample."""
        del self._bytes[number]
        with self._transaction("NORMAL"):
            self._connection.execute("DELETE FROM samples WHERE number = ?", (number,))

    def close(self) -> None:
        """Close the spool."""
        self._connection.close()

    @contextlib.contextmanager
    def _transaction(self, synchronous: str) -> Iterator[None]:
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._connection.execute("BEGIN IMMEDIATE")
        yield
        self._connection.execute("COMMIT")


KINDS: dict[str, Callable[[Path, int], Store]] = {"files": Files, "sqlite": Sqlite}


@dataclass(frozen=True)
class Cost:
    """The result of one run. Times are in ms; `put`, `put_full` (drops another) and `drain` are per sample."""

    kind: str
    start_empty: float
    put: float
    put_slowest: float
    start: float
    put_full: float
    drain: float
    mib: float


def main() -> int:
    """Measure both spools in turn, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="samples to store; a day has 2,880")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    flags = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    print(f"{filesystem(RESULTS)}, write and fsync of 4 KiB {fsync_ms(RESULTS):.2f} ms")
    found = {}
    for name, shape in SHAPES.items():
        samples = list(make_samples(shape, flags.samples + EXTRA_SAMPLES, random.Random(7)))
        costs = [measure(kind, samples) for _ in range(flags.rounds) for kind in KINDS]
        size = statistics.mean(len(sample.telemetry) for sample in samples)
        print(f"\n{table(f'{name} ({size:,.0f} bytes), {flags.samples:,} samples', costs)}")
        found[name] = [asdict(cost) for cost in costs]
    if flags.json:
        flags.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def make_samples(shape: Shape, count: int, chance: random.Random) -> Iterator[Sample]:
    """Yield the samples of a node of this shape, numbered from 1."""
    for number, body in enumerate(bodies(shape, 1, count, _KEY, _NOW, chance), 1):
        telemetry = canonical.parse_object(envelope.parse(body).data)["telemetry"]
        yield Sample(number, _NOW, _BOOT, _CLOCK.since_boot_ms, canonical.encode(telemetry))


def measure(kind: str, samples: Sequence[Sample]) -> Cost:
    """Measure one run in a new folder: put a day of samples, start again, put more into the full spool, drain it."""
    day, extra = samples[:-EXTRA_SAMPLES], samples[-EXTRA_SAMPLES:]
    with tempfile.TemporaryDirectory(dir=RESULTS) as name:
        folder = Path(name)
        start_empty, store = _timed(lambda: KINDS[kind](folder, 1 << 30))
        puts = [_timed(partial(store.put, sample))[0] for sample in day]
        store.close()
        mib = sum(file.stat().st_blocks * 512 for file in folder.rglob("*")) / 2**20
        # The limit that makes the spool full now.
        limit = sum(disk_bytes(len(zlib.compress(sample.telemetry)) + 90) for sample in day)
        start, store = _timed(lambda: KINDS[kind](folder, limit))
        full = [_timed(partial(store.put, sample))[0] for sample in extra]
        drain, drained = _timed(lambda: _drain(store))
        store.close()
        if len(drained) < 0.99 * len(day) or drained[-1] != extra[-1] or len(KINDS[kind](folder, limit).numbers()):
            raise RuntimeError(f"{kind}: the spool did not return the stored samples")
    return Cost(
        kind, start_empty, statistics.median(puts), max(puts), start, statistics.median(full), drain / len(drained), mib
    )


def table(title: str, costs: Sequence[Cost]) -> str:
    """Return a table of the medians over the rounds for files and sqlite, with their ratio."""
    rows = [f"{title:<60}{'files':>10}{'sqlite':>10}{'files/sqlite':>14}"]
    for name, label in _FIGURES.items():
        ours, theirs = (statistics.median(getattr(cost, name) for cost in costs if cost.kind == kind) for kind in KINDS)
        rows.append(f"{label:<60}{ours:>10.2f}{theirs:>10.2f}{ours / theirs:>14.2f}")
    return "\n".join(rows)


_FIGURES = {
    "start_empty": "start with an empty spool, ms",
    "put": "put, ms",
    "put_slowest": "slowest put, ms",
    "start": "start with a full spool, ms",
    "put_full": "put into a full spool, ms",
    "drain": "read and remove, ms",
    "mib": "size on disk, MiB",
}


_T = TypeVar("_T")


def _timed(work: Callable[[], _T]) -> tuple[float, _T]:
    began = time.perf_counter()
    result = work()
    return 1000 * (time.perf_counter() - began), result


def _drain(store: Store) -> list[Sample]:
    drained = []
    for number in store.numbers():
        sample = store.read(number)
        if sample is not None:
            drained.append(sample)
            store.remove(number)
    return drained


if __name__ == "__main__":
    sys.exit(main())
