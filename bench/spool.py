"""What a day's samples cost on a node's disk: the agent's spool beside the same in one SQLite file: `make bench-spool`.

May live here: both, the order of the runs, and the table. It exits with an error when something did not work, never
because something was slow.
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
from kattila_agent.spool.bounds import on_disk
from kattila_agent.spool.sample import Clock, Sample
from kattila_protocol import canonical, envelope
from kattila_protocol.signing import Key
from reports import Shape, bodies

# A day of reports, each 30 seconds.
SAMPLES = 2880
# So many are put when there is no room any more.
MORE = 200
RESULTS = Path(__file__).resolve().parent / "results"
SHAPES = {"a node of 7 kB": Shape(), "a node of 60 kB": Shape(interfaces=20, routes=200, peers=180, busy_peers=90)}
_KEY = Key.from_psk(b"of the benchmark, protects nothing")
_BOOT = "b0000000-0000-4000-8000-000000000000"
_NOW = 1_790_000_000_000
_CLOCK = Clock(_NOW, _BOOT, 90_000_000)


class Store(Protocol):
    """What is measured. Making one is a start of the agent, with what is there already."""

    def put(self, sample: Sample) -> None:
        """Keep a sample, on the disk; drop the oldest where there is no room."""

    def numbers(self) -> Sequence[int]:
        """Return what waits."""

    def read(self, number: int) -> Sample | None:
        """Return a sample."""

    def remove(self, number: int) -> None:
        """Forget a delivered sample; that a power cut may bring it back does no harm."""

    def close(self) -> None:
        """End."""


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
        """Keep a sample."""
        self._spool.put(sample, _CLOCK)


class Sqlite:
    """One table, WAL, a commit for each put that is on the disk when it returns; the telemetry compressed, too."""

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
        # SQLite has no checksums of its own. Files are checked at a start, so rows are, too.
        rows = self._connection.execute("SELECT number, crc, telemetry FROM samples")
        self._bytes = {number: on_disk(len(told)) for number, crc, told in rows if zlib.crc32(told) == crc}

    def put(self, sample: Sample) -> None:
        """Keep a sample, and drop and count the oldest in the same transaction."""
        told = zlib.compress(sample.telemetry)
        self._bytes[sample.number] = on_disk(len(told))
        row = (sample.number, sample.sampled_at, sample.boot_id, sample.since_boot_ms, zlib.crc32(told), told)
        with self._transaction("FULL"):
            while sum(self._bytes.values()) > self._max_bytes:
                oldest = min(self._bytes)
                del self._bytes[oldest]
                self._connection.execute("DELETE FROM samples WHERE number = ?", (oldest,))
                self._connection.execute("UPDATE ledger SET dropped = dropped + 1")
            self._connection.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?)", row)

    def numbers(self) -> Sequence[int]:
        """Return what waits."""
        return sorted(self._bytes)

    def read(self, number: int) -> Sample | None:
        """Return a sample."""
        query = "SELECT number, sampled_at, boot_id, since_boot_ms, telemetry FROM samples WHERE number = ?"
        _, sampled_at, boot_id, since_boot_ms, told = self._connection.execute(query, (number,)).fetchone()
        return Sample(number, sampled_at, boot_id, since_boot_ms, zlib.decompress(told))

    def remove(self, number: int) -> None:
        """Forget a sample."""
        del self._bytes[number]
        with self._transaction("NORMAL"):
            self._connection.execute("DELETE FROM samples WHERE number = ?", (number,))

    def close(self) -> None:
        """End."""
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
    """One run: times in ms; `put`, `put_full` (another has to go) and `drain` (read and removed) per sample."""

    kind: str
    start_empty: float
    put: float
    put_slowest: float
    start: float
    put_full: float
    drain: float
    mib: float


def main() -> int:
    """Measure, in turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="a day has 2,880")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    flags = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    print(f"{filesystem(RESULTS)}, write and fsync of 4 KiB {fsync_ms(RESULTS):.2f} ms")
    found = {}
    for name, shape in SHAPES.items():
        samples = list(made(shape, flags.samples + MORE, random.Random(7)))
        costs = [measure(kind, samples) for _ in range(flags.rounds) for kind in KINDS]
        size = statistics.mean(len(sample.telemetry) for sample in samples)
        print(f"\n{table(f'{name} ({size:,.0f} bytes), {flags.samples:,} samples', costs)}")
        found[name] = [asdict(cost) for cost in costs]
    if flags.json:
        flags.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def made(shape: Shape, count: int, chance: random.Random) -> Iterator[Sample]:
    """Yield what a node of this shape measures, numbered from 1."""
    for number, body in enumerate(bodies(shape, 1, count, _KEY, _NOW, chance), 1):
        telemetry = canonical.parse_object(envelope.cut(body).data)["telemetry"]
        yield Sample(number, _NOW, _BOOT, _CLOCK.since_boot_ms, canonical.encode(telemetry))


def measure(kind: str, samples: Sequence[Sample]) -> Cost:
    """Make one run in a new folder: put all but the last, start again, put those in a full spool, drain."""
    day, more = samples[:-MORE], samples[-MORE:]
    with tempfile.TemporaryDirectory(dir=RESULTS) as name:
        folder = Path(name)
        start_empty, store = _timed(lambda: KINDS[kind](folder, 1 << 30))
        puts = [_timed(partial(store.put, sample))[0] for sample in day]
        store.close()
        mib = sum(file.stat().st_blocks * 512 for file in folder.rglob("*")) / 2**20
        # As if what waits were all that there may be.
        room = sum(on_disk(len(zlib.compress(sample.telemetry)) + 90) for sample in day)
        start, store = _timed(lambda: KINDS[kind](folder, room))
        full = [_timed(partial(store.put, sample))[0] for sample in more]
        drain, drained = _timed(lambda: _drained(store))
        store.close()
        if len(drained) < 0.99 * len(day) or drained[-1] != more[-1] or len(KINDS[kind](folder, room).numbers()):
            raise RuntimeError(f"{kind}: what was put did not come out")
    return Cost(
        kind, start_empty, statistics.median(puts), max(puts), start, statistics.median(full), drain / len(drained), mib
    )


def table(title: str, costs: Sequence[Cost]) -> str:
    """Return the medians over the rounds, files beside sqlite, and their ratio."""
    rows = [f"{title:<60}{'files':>10}{'sqlite':>10}{'files/sqlite':>14}"]
    for name, what in _FIGURES.items():
        ours, theirs = (statistics.median(getattr(cost, name) for cost in costs if cost.kind == kind) for kind in KINDS)
        rows.append(f"{what:<60}{ours:>10.2f}{theirs:>10.2f}{ours / theirs:>14.2f}")
    return "\n".join(rows)


_FIGURES = {
    "start_empty": "start with nothing there, ms",
    "put": "put, ms",
    "put_slowest": "the slowest of them, ms",
    "start": "start with all of them there, ms",
    "put_full": "put where the oldest has to go, ms",
    "drain": "read and remove, ms",
    "mib": "on the disk, MiB",
}


_T = TypeVar("_T")


def _timed(work: Callable[[], _T]) -> tuple[float, _T]:
    began = time.perf_counter()
    result = work()
    return 1000 * (time.perf_counter() - began), result


def _drained(store: Store) -> list[Sample]:
    drained = []
    for number in store.numbers():
        sample = store.read(number)
        if sample is not None:
            drained.append(sample)
            store.remove(number)
    return drained


if __name__ == "__main__":
    sys.exit(main())
