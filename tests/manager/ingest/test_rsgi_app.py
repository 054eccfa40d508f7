"""The background task of a worker survives every failure."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kattila_keys.refresh import Keys
from kattila_keys.ring_file import RingFile
from kattila_manager.ingest import rsgi_app
from kattila_manager.ingest.rsgi_app import RsgiApp
from support.reports import KEY
from support.waiting import PATIENCE_SECONDS

HOUR = 60 * 60 * 1000


class Clock:
    """A clock that passes an hour with each call, and fails while a test wants that."""

    def __init__(self) -> None:
        self.now = 1_760_000_000_000
        self.error: Exception | None = None

    def __call__(self) -> int:
        if self.error is not None:
            raise self.error
        self.now += 2 * HOUR
        return self.now


class Idle:
    """A writer with nothing to do."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


@pytest.mark.parametrize("error", [OSError("no clock"), ValueError("no time"), RuntimeError("no thread")])
def test_the_refresh_of_the_keys_survives_every_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(rsgi_app, "REFRESH_CHECK_SECONDS", 0.01)
    queries, clock, unused = 0, Clock(), Any

    def query() -> tuple[tuple[bytes, ...], ...]:
        nonlocal queries
        queries += 1
        return ((KEY.psk,),)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as key_thread:
            keys = Keys(RingFile(tmp_path / "ring.json"), query, lambda: 0.5)
            app = RsgiApp(unused, unused, Idle(), keys, key_thread, clock)  # type: ignore[arg-type] # not used here
            app.__rsgi_init__(loop)
            await until(lambda: queries >= 2)
            clock.error = error
            await until(lambda: "refreshing the keys failed, and is tried again" in caplog.text)
            await asyncio.sleep(0.1)
            clock.error, before = None, queries
            await until(lambda: queries > before and "refreshing the keys works again" in caplog.text)
            app.__rsgi_del__(loop)

    asyncio.run(asyncio.wait_for(run(), PATIENCE_SECONDS))
    assert caplog.text.count("refreshing the keys failed") == 1


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.01)
