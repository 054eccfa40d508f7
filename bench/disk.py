"""Measures the speed of a disk and the size of a database on it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

import psutil

FSYNCS = 100


def fsync_ms(folder: Path) -> float:
    """Return the median time in ms to write 4 KiB to a file in `folder` and sync it."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return 1000 * statistics.median(_write_and_sync(file.fileno()) for _ in range(FSYNCS))


def filesystem(folder: Path) -> str:
    """Return the type of the file system that `folder` is on, for example "ext4"."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[str(above)] for above in (folder, *folder.parents) if str(above) in mounts), "unknown")


def reports_and_bytes(database: Path) -> tuple[int, int]:
    """Return the number of reports in an unused database, and the size of its files after a checkpoint."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        reports: int = connection.execute("SELECT count(*) FROM reports").fetchone()[0]
    return reports, sum(file.stat().st_size for file in database.parent.glob(database.name + "*"))


def _write_and_sync(file: int) -> float:
    started_at = time.monotonic()
    os.pwrite(file, bytes(4096), 0)
    os.fsync(file)
    return time.monotonic() - started_at
