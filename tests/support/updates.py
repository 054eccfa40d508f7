"""The manager's update handler without a server, for tests of what it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile, StoredRing
from kattila_manager.ingest.responses import Response
from kattila_manager.ingest.update_handler import UpdateHandler
from kattila_manager.records import VerifiedReport
from kattila_manager.store.ingest.refusal_counters import RefusalCounters
from kattila_manager.store.ingest.writer import Writer
from kattila_manager.store.store import Store
from kattila_protocol.ring import Ring
from support.store import write_nothing


def read_update(body: bytes, ring: Ring, now: int) -> VerifiedReport | Response:
    """Return a report that arrived at `now` (ms UTC) as the handler reads it, or its signed refusal.

    Raises Refusal if the sender is unknown.
    """
    with handling(lambda: now) as handler:
        return handler.read(body, ring)


@contextmanager
def handling(clock: Callable[[], int], ring: Ring | None = None) -> Iterator[UpdateHandler]:
    """Yield a handler by this clock, whose writer does not run; `ring` is as if read from DNS just now."""
    with (
        TemporaryDirectory() as folder,
        closing(Store(Path(folder) / "kattila_manager.db")) as store,
        ThreadPoolExecutor(1) as key_thread,
    ):
        writer = Writer(store.engine, store.lock, write_nothing)
        keys = Keys(RingFile(Path(folder) / "kattila_ring.json"), lambda: (), lambda: 0.5)
        if ring is not None:
            RingFile(Path(folder) / "kattila_ring.json").update(
                lambda _: StoredRing(ring, asked_at=clock(), answered_at=clock())
            )
        yield UpdateHandler(keys, writer, RefusalCounters(), key_thread, clock)
