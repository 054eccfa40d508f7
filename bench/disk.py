"""What the disk costs and what a database takes on it.

May live here: measurements of files. Not here: SQL of the product.
"""

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
    """Return the median time in ms of writing 4 KiB to a file in `folder` and syncing it."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return 1000 * statistics.median(_written_and_synced(file.fileno()) for _ in range(FSYNCS))


def filesystem(folder: Path) -> str:
    """Return the type of the file system that `folder` lies on, "ext4" say."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[str(above)] for above in (folder, *folder.parents) if str(above) in mounts), "unknown")


def reports_and_bytes(database: Path) -> tuple[int, int]:
    """Return how many reports a database that nobody uses holds, and the bytes of its files after a checkpoint."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        reports: int = connection.execute("SELECT count(*) FROM reports").fetchone()[0]
    return reports, sum(file.stat().st_size for file in database.parent.glob(database.name + "*"))


def _written_and_synced(file: int) -> float:
    started_at = time.monotonic()
    os.pwrite(file, bytes(4096), 0)
    os.fsync(file)
    return time.monotonic() - started_at
