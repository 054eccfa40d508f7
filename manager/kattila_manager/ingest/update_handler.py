"""Handles POST /status/updates: verifies a report, files it, and answers with a signed verdict."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

from kattila_keys.refresh import USE_PRECISION_MS, Keys
from kattila_manager.ingest import responses
from kattila_manager.ingest.reply_address import find_claimed_id, find_reply_address
from kattila_manager.ingest.responses import Response
from kattila_manager.records import Filed, VerifiedReport, refused
from kattila_manager.store.decoding import decode
from kattila_manager.store.ingest.refusal_counters import RefusalCounters
from kattila_manager.store.ingest.writer import COMMIT_SECONDS, RETRY_AFTER_SECONDS, Writer
from kattila_protocol import envelope, verdict
from kattila_protocol.errors import BadSignature, ClockSkew, Malformed, NoKey, Overloaded, Refusal, RelayLoop
from kattila_protocol.freshness import check_skew
from kattila_protocol.message import check_content_type
from kattila_protocol.names import MANAGER
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key
from kattila_protocol.verdict import Verdict

# DATA up to this size is decoded and compressed in the event loop, which takes a few milliseconds at most. A larger one
# may take 0.2 s.
MAX_INLINE_BYTES = 16 * 1024
# Bytes of large reports that wait for their thread, of all senders and of one address; further ones get a 503 at once.
# A thousand honest ones fit. The largest ones of one address delay the others by less than a second.
_MAX_WAITING_BYTES = 16 * 1024 * 1024
_MAX_WAITING_BYTES_OF_ONE = 4 * 1024 * 1024

# How often a worker checks whether another process changed the ring. An unknown signature triggers a check at once.
RING_CHECK_MS = 200


class UpdateHandler:
    """Takes reports; safe for several threads, each with an event loop."""

    def __init__(
        self,
        keys: Keys,
        writer: Writer,
        counters: RefusalCounters,
        key_thread: Executor,
        clock: Callable[[], int],
        is_known: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Use these objects.

        `key_thread` is the one thread that may wait for DNS, `clock` returns ms UTC, and `is_known` whether an agent
        has this id.
        """
        self._is_known = is_known
        self._keys = keys
        self._writer = writer
        self._counters = counters
        self._key_thread = key_thread
        self._clock = clock
        self._ring = keys.ring()
        self._ring_checked_at = clock()
        self._used_at: dict[str, int] = {}
        # One thread, so that large reports stay in their order and take no more than one processor's turns.
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large")
        self._waiting: Counter[str] = Counter()

    async def handle(self, content_type: str, body: bytes, source: str = "") -> Response:
        """Return the answer to a report from this address once it is committed, or refused."""
        try:
            check_content_type(content_type)
            verified = await self._verified(body, source)
            if isinstance(verified, Response):
                return verified
            filed = await self._file(verified)
        except Refusal as refusal:
            return self.refuse(refusal)
        report = verified.report
        clock_offset = report.timestamp - verified.received_at
        return self.answer(report.agent_id, report.nonce, clock_offset, filed, verified.key)

    def read(self, body: bytes, ring: Ring, source: str = "") -> VerifiedReport | Response:
        """Return a verified report, or the signed refusal of one that is authentic but invalid.

        Raises:
            TooLarge, Malformed, TooManyHops, NoKey, BadSignature: the sender is unknown.
        """
        parts = envelope.parse(body)
        key = envelope.verify(parts, ring, MANAGER)
        now = self._clock()
        try:
            report = decode(parts.data)
        except Malformed as refusal:
            agent_id, nonce, timestamp = find_reply_address(parts.data)
            return self.answer(agent_id, nonce, timestamp - now, refused(refusal), key)
        try:
            envelope.check_origin(report.agent_id, parts.relay_path)
            check_skew(report.timestamp, now)
        except (RelayLoop, ClockSkew) as refusal:
            return self.answer(report.agent_id, report.nonce, report.timestamp - now, refused(refusal), key)
        return VerifiedReport(report, parts.data, bytes.fromhex(parts.mac), key, parts.relay_path, now, source)

    def answer(self, agent_id: str, nonce: str, clock_offset: int, filed: Filed, key: Key) -> Response:
        """Return the signed verdict on an authentic message; a refusal is counted, and becomes a problem document."""
        now, refusal = self._clock(), filed.refusal
        given = Verdict(
            outcome=filed.outcome,
            agent_id=agent_id,
            nonce=nonce,
            manager_time=now,
            clock_offset=clock_offset,
            highest_tick=filed.highest_tick,
            highest_sample=filed.highest_sample,
            detail=refusal.detail if refusal else "",
        )
        body = verdict.seal(given, key, refusal)
        if refusal is None:
            return Response(200, responses.JSON_HEADERS, body)
        self._counters.note(refusal, agent_id, now)
        return Response(refusal.status, responses.problem_headers(refusal), body)

    def refuse(self, refusal: Refusal) -> Response:
        """Return the unsigned refusal of a message from an unknown sender, and count it."""
        self._counters.note(refusal, None, self._clock())
        return responses.problem(refusal)

    async def _verified(self, body: bytes, source: str) -> VerifiedReport | Response:
        """Read a report; if no key fits, try again with a fresh ring."""
        now = self._clock()
        if not 0 <= now - self._ring_checked_at < RING_CHECK_MS:
            self._ring_checked_at, self._ring = now, self._keys.ring()
        try:
            if len(body) <= MAX_INLINE_BYTES:
                return self.read(body, self._ring, source)
            # Only authentic reports may take the thread's time.
            envelope.verify(envelope.parse(body), self._ring, MANAGER)
            return await self._read_in_thread(body, self._ring, source)
        except (BadSignature, NoKey) as refusal:
            if not self._keys.may_refresh(self._ring, now, known_sender=True):
                raise
            verify = partial(self._keys.verify_again, partial(self.read, body, source=source), self._ring, refusal, now)
            in_key_thread = partial(asyncio.get_running_loop().run_in_executor, self._key_thread)
            known_sender = await in_key_thread(self.claims_known_id, body)
            if not known_sender and not self._keys.may_refresh(self._ring, now):
                raise
        verified = await in_key_thread(partial(verify, known_sender=known_sender))
        self._ring = self._keys.ring()
        return verified

    async def _read_in_thread(self, body: bytes, ring: Ring, source: str) -> VerifiedReport | Response:
        """Read a large report in its own thread, so that the event loop answers other requests meanwhile."""
        if self._waiting.total() >= _MAX_WAITING_BYTES or self._waiting[source] >= _MAX_WAITING_BYTES_OF_ONE:
            raise Overloaded("too many large reports are arriving at once", retry_after_seconds=RETRY_AFTER_SECONDS)
        self._waiting[source] += len(body)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._large, self.read, body, ring, source)
        finally:
            self._waiting[source] -= len(body)
            if not self._waiting[source]:
                del self._waiting[source]

    def claims_known_id(self, body: bytes) -> bool:
        """Return whether an unverified message names an agent that this manager knows."""
        try:
            return self._is_known(find_claimed_id(body))
        except Exception:
            # Without the database the message cannot be filed anyway.
            return False

    async def _file(self, verified: VerifiedReport) -> Filed:
        if len(verified.data) <= MAX_INLINE_BYTES:
            submitted = self._writer.submit(verified)
        else:
            submitted = await asyncio.get_running_loop().run_in_executor(self._large, self._writer.submit, verified)
        committed = asyncio.wrap_future(submitted)
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                filed = await committed
        except TimeoutError:
            # The writer may still file it. Then it is a duplicate when the agent sends it again.
            detail = f"the report was not stored within {COMMIT_SECONDS:.0f} s"
            return refused(Overloaded(detail, retry_after_seconds=RETRY_AFTER_SECONDS))
        fingerprint, used_at = verified.key.fingerprint, verified.received_at
        if used_at - self._used_at.get(fingerprint, 0) >= USE_PRECISION_MS:
            self._used_at[fingerprint] = used_at
            self._key_thread.submit(self._keys.record_use, fingerprint, used_at)
        return filed
