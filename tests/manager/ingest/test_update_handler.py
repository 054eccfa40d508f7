"""Which reports the update handler accepts for filing, and the signed verdicts on authentic ones that it refuses."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from kattila_manager.ingest.responses import Response
from kattila_manager.ingest.update_handler import MAX_INLINE_BYTES, UpdateHandler
from kattila_manager.records import VerifiedReport
from kattila_protocol import canonical, envelope, verdict
from kattila_protocol.envelope import Envelope
from kattila_protocol.names import MANAGER
from kattila_protocol.verdict import Verdict
from protocol.samples import AGENT, KEY, NONCE, NOW, OTHER_AGENT, REPORT, RING
from support.updates import handling, read_update
from support.waiting import PATIENCE_SECONDS

MEMBERS: dict[str, Any] = json.loads(canonical.encode(REPORT))


def ordered(*names: str, **changes: Any) -> bytes:
    """Return DATA with these members first, then all others."""
    members = {name: MEMBERS[name] for name in names} | MEMBERS | changes
    return canonical.encode(members)


def answered(data: bytes, now: int = NOW) -> tuple[int, Verdict]:
    """Return status and verdict of an authentic report that is refused at once."""
    return answered_to(envelope.seal(data, KEY), now)


def answered_to(sealed: Envelope, now: int = NOW) -> tuple[int, Verdict]:
    response = read_update(sealed.to_bytes(), RING, now)
    assert isinstance(response, Response)
    return response.status, verdict.unseal(response.body, RING, NONCE)


def test_a_malformed_report_gets_a_verdict() -> None:
    status, said = answered(ordered("timestamp", "nonce", "tick", "agent_id", sample="41"))
    assert (status, said.outcome, said.agent_id, said.clock_offset) == (400, "malformed", AGENT, 0)


def test_raw_utf_8_gets_a_verdict() -> None:
    status, said = answered(canonical.encode(REPORT)[:-1] + ',"of":"kä"}'.encode())
    assert (status, said.outcome, said.agent_id) == (400, "malformed", AGENT)


# A report that can be parsed is answered by its members, wherever they are.
@pytest.mark.parametrize("first", ["agent_id", "telemetry"])
def test_a_report_with_a_skewed_clock_gets_a_verdict(first: str) -> None:
    data = ordered(first)
    assert (data.index(b'"nonce"') > 1024) is (first == "telemetry")
    status, said = answered(data, NOW + 600_001)
    assert (status, said.outcome, said.agent_id, said.clock_offset) == (409, "clock_skew", AGENT, -600_001)


@pytest.mark.parametrize("now", [NOW, NOW + 600_001])
def test_a_report_relayed_by_its_origin_gets_a_verdict(now: int) -> None:
    data = canonical.encode(REPORT)
    for path in ((AGENT,), (OTHER_AGENT, AGENT)):
        sealed = envelope.seal(data, KEY, path[0])
        for relay, recipient in zip(path, (*path[1:], MANAGER), strict=True):
            sealed = envelope.forward(sealed, relay, KEY, recipient)
        status, said = answered_to(sealed, now)
        assert (status, said.outcome, said.agent_id, said.clock_offset) == (409, "relay_loop", AGENT, NOW - now)


def test_a_relayed_report_is_accepted() -> None:
    sealed = envelope.forward(envelope.seal(canonical.encode(REPORT), KEY, OTHER_AGENT), OTHER_AGENT, KEY, MANAGER)
    verified = read_update(sealed.to_bytes(), RING, NOW)
    assert isinstance(verified, VerifiedReport)
    assert verified.relay_path == (OTHER_AGENT,)


# A large report is decoded in a thread, for which authentic ones wait. Others must not.
def test_a_forged_large_report_is_refused_while_the_thread_for_large_ones_is_busy() -> None:
    sealed = envelope.seal(canonical.encode(MEMBERS | {"more": "x" * MAX_INLINE_BYTES}), KEY)
    busy, release = threading.Event(), threading.Event()

    def clock() -> int:
        if threading.current_thread() is not threading.main_thread():
            busy.set()
            assert release.wait(PATIENCE_SECONDS)
        return NOW + 600_001

    async def answers(handler: UpdateHandler) -> tuple[int, int]:
        authentic = asyncio.create_task(handler.handle("application/json", sealed.to_bytes()))
        await asyncio.to_thread(busy.wait, PATIENCE_SECONDS)
        forged = await handler.handle("application/json", replace(sealed, mac="0" * 64).to_bytes())
        assert not authentic.done()
        release.set()
        return forged.status, (await authentic).status

    with handling(clock, RING) as handler:
        assert asyncio.run(answers(handler)) == (403, 409)


def test_any_order_of_members_is_accepted() -> None:
    data = ordered("telemetry", "timestamp", "nonce")
    verified = read_update(envelope.seal(data, KEY).to_bytes(), RING, NOW)
    assert isinstance(verified, VerifiedReport)
    assert verified.report == REPORT
