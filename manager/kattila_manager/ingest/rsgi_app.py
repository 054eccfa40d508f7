"""The application of one worker (RSGI): handles updates in its event loop, everything else in a pool of threads."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol

from kattila_keys.refresh import Keys
from kattila_manager.ingest import wsgi_bridge
from kattila_manager.ingest.request_bodies import BodyReader
from kattila_manager.ingest.responses import Response, problem
from kattila_manager.ingest.update_handler import UpdateHandler
from kattila_manager.ingest.wsgi_bridge import WsgiApp
from kattila_manager.store.ingest.writer import COMMIT_SECONDS, Writer
from kattila_protocol.errors import Overloaded, Refusal
from kattila_settings.failures import Failures

UPDATES = "/status/updates"
HEALTH = "/status/healthcheck"
_POOL_THREADS = 4
# Requests that may wait for the pool; further ones get a 503 at once.
_MAX_POOLED = 64
REFRESH_CHECK_SECONDS = 5.0

_log = logging.getLogger("kattila.manager")


class RsgiScope(Protocol):
    """The members of an RSGI `scope` that are used here."""

    proto: str
    method: str
    path: str
    query_string: str
    client: str
    headers: Any


class RsgiApp:
    """The RSGI application of one worker."""

    def __init__(
        self,
        updates: UpdateHandler,
        wsgi_app: WsgiApp,
        writer: Writer,
        keys: Keys,
        key_thread: Executor,
        clock: Callable[[], int],
    ) -> None:
        """Use these objects; `key_thread` is the one thread that may wait for DNS, `clock` returns ms UTC."""
        self._updates = updates
        self._wsgi_app = wsgi_app
        self._writer = writer
        self._keys = keys
        self._key_thread = key_thread
        self._clock = clock
        self._bodies = BodyReader()
        self._pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="bottle")
        self._pooled = 0
        self._refreshing: asyncio.Task[None] | None = None

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the writer, and keep the keys fresh."""
        self._writer.start()
        self._key_thread.submit(self._keys.refresh_or_log, self._clock())
        self._refreshing = loop.create_task(self._keep_fresh())
        _log.info("worker %d takes reports", os.getpid())

    def __rsgi_del__(self, _loop: asyncio.AbstractEventLoop) -> None:
        """Stop; reports that were submitted are filed first."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._writer.stop()

    async def __rsgi__(self, scope: RsgiScope, protocol: Any) -> None:
        """Answer one request."""
        if scope.proto != "http":
            return
        is_update = scope.method == "POST" and scope.path == UPDATES
        try:
            body = await self._bodies.read(scope.headers, protocol)
            if is_update:
                source = scope.client.rpartition(":")[0].strip("[]")
                response = await self._updates.handle(scope.headers.get("content-type") or "", body, source)
            else:
                response = await self._call_wsgi(scope, body)
        except Refusal as refusal:
            response = self._updates.refuse(refusal) if is_update else problem(refusal)
        protocol.response_bytes(response.status, list(response.headers), response.body)

    async def _call_wsgi(self, scope: RsgiScope, body: bytes) -> Response:
        if scope.path == HEALTH:
            # It never blocks, and must not queue behind requests that do.
            return wsgi_bridge.call(self._wsgi_app, scope, body)
        if self._pooled >= _MAX_POOLED:
            raise Overloaded(f"{_MAX_POOLED} requests are waiting", retry_after_seconds=1)
        self._pooled += 1
        loop = asyncio.get_running_loop()
        calling = loop.run_in_executor(self._pool, wsgi_bridge.call, self._wsgi_app, scope, body)
        # The thread continues after a timeout, and counts until it is done.
        calling.add_done_callback(self._leave_pool)
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                return await asyncio.shield(calling)
        except TimeoutError:
            raise Overloaded(f"there was no answer within {COMMIT_SECONDS:.0f} s") from None

    def _leave_pool(self, _calling: asyncio.Future[Response]) -> None:
        self._pooled -= 1

    async def _keep_fresh(self) -> None:
        failures = Failures(_log)
        while True:
            await asyncio.sleep(REFRESH_CHECK_SECONDS)
            with failures.guard("refreshing the keys"):
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._key_thread, self._keys.refresh_if_due, self._clock())
