"""The async door in front of the manager (RSGI): bodies are read, updates wait for their commit here.

May live here: what one event loop does per request. Not here: what a report means (intake), and every other endpoint,
which goes with its body already read to the Bottle app in a small pool of threads (bridge).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

from kattila_keys.refresh import USE_PRECISION_MS, Keys
from kattila_manager.ingest.request_bodies import Bodies
from kattila_manager.ingest.responses import Response, problem
from kattila_manager.ingest.update_handler import Begun, Intake
from kattila_manager.records import Filed
from kattila_manager.store.ingest.writer import COMMIT_SECONDS, Writer, not_in_time
from kattila_protocol.errors import BadSignature, NoKey, Overloaded, Refusal
from kattila_protocol.ring import Ring

UPDATES = "/status/updates"
HEALTH = "/status/healthcheck"
# How often a worker looks whether another process changed the ring; an unknown signature makes it look at once.
RING_LOOK_MS = 200
# Requests that may wait for the pool; more is answered at once.
_MAX_POOLED = 64

BridgeCall = Callable[[Any, bytes], Response]


class Request(Protocol):
    """What RSGI tells of a request (its `scope`)."""

    proto: str
    method: str
    path: str
    query_string: str
    client: str
    headers: Any


class Door:
    """The RSGI application of one worker."""

    def __init__(
        self,
        intake: Intake,
        keys: Keys,
        writer: Writer,
        bridge: BridgeCall,
        pool: Executor,
        asking: Executor,
        clock: Callable[[], int],
    ) -> None:
        """Join the parts; `pool` runs the bridge, `asking` is the one thread that may wait for DNS."""
        self._intake = intake
        self._keys = keys
        self._writer = writer
        self._bridge = bridge
        self._pool = pool
        self._asking = asking
        self._clock = clock
        self._bodies = Bodies()
        self._pooled = 0
        self._ring_seen = keys.ring()
        self._looked_at = clock()
        self._used_at: dict[str, int] = {}

    async def __rsgi__(self, scope: Request, protocol: Any) -> None:
        """Response one request."""
        if scope.proto != "http":
            return
        answer = await self._answer(scope, protocol)
        protocol.response_bytes(answer.status, list(answer.headers), answer.body)

    async def _answer(self, scope: Request, protocol: Any) -> Response:
        is_update = scope.method == "POST" and scope.path == UPDATES
        try:
            body = await self._bodies.read(scope.headers, protocol)
            if is_update:
                return await self._update(scope.headers.get("content-type") or "", body)
            return await self._elsewhere(scope, body)
        except Refusal as refusal:
            return self._intake.refuse(refusal) if is_update else problem(refusal)

    async def _update(self, content_type: str, body: bytes) -> Response:
        tried = self._ring()
        try:
            begun = self._intake.begin(content_type, body, tried)
        except (BadSignature, NoKey):
            fresh = await self._fresh_ring(tried)
            if fresh is None:
                raise
            self._ring_seen = fresh
            begun = self._intake.begin(content_type, body, fresh)
        if isinstance(begun, Response):
            return begun
        return self._intake.finish(begun, await self._file(begun))

    async def _file(self, begun: Begun) -> Filed:
        future: asyncio.Future[Filed] = asyncio.get_running_loop().create_future()
        self._writer.submit(begun.incoming, future)
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                filed = await future
        except TimeoutError:
            return not_in_time()
        fingerprint, used_at = begun.key.fingerprint, begun.incoming.received_at
        if used_at - self._used_at.get(fingerprint, 0) >= USE_PRECISION_MS:
            self._used_at[fingerprint] = used_at
            self._asking.submit(self._keys.record_use, fingerprint, used_at)
        return filed

    def _ring(self) -> Ring:
        now = self._clock()
        if not 0 <= now - self._looked_at < RING_LOOK_MS:
            self._looked_at, self._ring_seen = now, self._keys.ring()
        return self._ring_seen

    async def _fresh_ring(self, tried: Ring) -> Ring | None:
        now = self._clock()
        if not self._keys.may_refresh(tried, now):
            return None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._asking, self._keys.refresh_after_unknown, tried, now)

    async def _elsewhere(self, scope: Request, body: bytes) -> Response:
        if scope.path == HEALTH:
            # It waits for nothing, and must not wait behind those that do.
            return self._bridge(scope, body)
        if self._pooled >= _MAX_POOLED:
            raise Overloaded(f"{_MAX_POOLED} requests are waiting", retry_after_seconds=1)
        self._pooled += 1
        answering = asyncio.get_running_loop().run_in_executor(self._pool, self._bridge, scope, body)
        # Its thread goes on even if nobody waits for it any more.
        answering.add_done_callback(self._left_the_pool)
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                return await asyncio.shield(answering)
        except TimeoutError:
            raise Overloaded(f"there was no answer within {COMMIT_SECONDS:.0f} s") from None

    def _left_the_pool(self, _answering: asyncio.Future[Response]) -> None:
        self._pooled -= 1


def deliver_in(loop: asyncio.AbstractEventLoop) -> Callable[[Sequence[tuple[Any, Filed]]], object]:
    """Make what hands the writer's results to futures of this loop: one call for a whole batch."""

    def deliver(results: Sequence[tuple[Any, Filed]]) -> None:
        if results:
            loop.call_soon_threadsafe(_resolve, results)

    return deliver


def _resolve(results: Sequence[tuple[asyncio.Future[Filed], Filed]]) -> None:
    for future, filed in results:
        if not future.done():
            future.set_result(filed)
