"""To whom a refusal of an authentic report is addressed, in whatever order its members stand."""

from __future__ import annotations

import itertools
import json
from time import thread_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_manager.ingest import reply_address
from kattila_manager.ingest.responses import Response
from kattila_manager.ingest.update_handler import Begun, Intake
from kattila_manager.store.ingest.refusal_counters import Counters
from kattila_protocol import canonical, envelope, verdict
from kattila_protocol.envelope import Envelope
from kattila_protocol.names import MANAGER, is_id
from kattila_protocol.verdict import Verdict
from protocol.samples import AGENT, KEY, NONCE, NOW, OTHER_AGENT, OTHER_NONCE, REPORT, RING

NOBODY = "00000000-0000-0000-0000-000000000000"
NO_NONCE = "0" * 32
KNOWN = (AGENT, NONCE, NOW)

MEMBERS: dict[str, Any] = json.loads(canonical.encode(REPORT))
ADDRESS = {"agent_id": AGENT, "nonce": NONCE, "timestamp": NOW}


def ordered(*names: str, **changes: Any) -> bytes:
    """Return DATA with these members first, then all others."""
    members = {name: MEMBERS[name] for name in names} | MEMBERS | changes
    return canonical.encode(members)


@pytest.mark.parametrize("names", list(itertools.permutations(ADDRESS)))
@pytest.mark.parametrize("spacing", [(",", ":"), (", ", ": "), (" ,\n\t", " : ")])
def test_the_three_are_found_in_any_order(names: tuple[str, ...], spacing: tuple[str, str]) -> None:
    members = {name: ADDRESS[name] for name in names}
    assert reply_address.sender(json.dumps({**members, "x": 1}, separators=spacing).encode()) == KNOWN
    assert reply_address.sender(json.dumps({"x": 1, **members}, separators=spacing).encode()) == KNOWN


def test_each_is_found_without_the_others() -> None:
    assert reply_address.sender(b'{"agent_id":"%s"}' % AGENT.encode()) == (AGENT, NO_NONCE, 0)
    assert reply_address.sender(b'{"nonce":"%s"}' % NONCE.encode()) == (NOBODY, NONCE, 0)
    assert reply_address.sender(b'{"timestamp":%d}' % NOW) == (NOBODY, NO_NONCE, NOW)


@pytest.mark.parametrize(
    "front",
    [
        b'"of":{"agent_id":"%s","nonce":"%s","timestamp":1},',
        b'"of":[{"a":[{}],"agent_id":"%s","nonce":"%s"},"timestamp"],',
        b'"of":"{\\"agent_id\\":\\"%s\\",\\"nonce\\":\\"%s\\",\\"timestamp\\":1}",',
        b'"of":"}","also":{"agent_id":"%s","nonce":"%s"},',
        b'"of":"\\"}","also":[{"agent_id":"%s","nonce":"%s"}],',
    ],
    ids=["nested", "in a list", "in a string", "after a bracket in a string", "after an escaped quote"],
)
def test_what_stands_deeper_or_in_a_string_is_not_the_senders(front: bytes) -> None:
    address = canonical.encode(ADDRESS)
    assert reply_address.sender(b"{" + front % (OTHER_AGENT.encode(), OTHER_NONCE.encode()) + address[1:]) == KNOWN


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (AGENT, AGENT.upper(), (NOBODY, NONCE, NOW)),
        (AGENT, "manager", (NOBODY, NONCE, NOW)),
        (AGENT, "-" * 36, (NOBODY, NONCE, NOW)),
        (NONCE, NONCE[1:], (AGENT, NO_NONCE, NOW)),
        (NONCE, NONCE + "0", (AGENT, NO_NONCE, NOW)),
        (f'"{NONCE}"', "null", (AGENT, NO_NONCE, NOW)),
        (str(NOW), "-1", (AGENT, NONCE, 0)),
        (str(NOW), "1.5", (AGENT, NONCE, 0)),
        (str(NOW), f'"{NOW}"', (AGENT, NONCE, 0)),
        (str(NOW), "9" * 16, (AGENT, NONCE, 0)),
        (str(NOW), "9" * 1000, (AGENT, NONCE, 0)),
    ],
)
def test_what_is_no_such_name_is_zeros(old: str, new: str, found: tuple[str, str, int]) -> None:
    assert reply_address.sender(canonical.encode(ADDRESS).replace(old.encode(), new.encode())) == found


def test_only_the_first_kilobyte_is_searched() -> None:
    front = b'{"x":"%s",'
    within = 1024 - len(canonical.encode(ADDRESS)) - len(front) + len("%s") + 1
    rest = canonical.encode(ADDRESS)[1:]
    assert reply_address.sender(front % (b"x" * within) + rest) == KNOWN
    # A number that is cut may go on.
    assert reply_address.sender(front % (b"x" * (within + 1)) + rest) == (AGENT, NONCE, 0)
    assert reply_address.sender(front % (b"x" * 1024) + rest) == (NOBODY, NO_NONCE, 0)


@pytest.mark.parametrize("pattern", [b'"', b'\\"', b'"\\', b"{", b"]", b'"nonce":', b'"nonce" ', b"\xff", b" "])
def test_nothing_takes_long(pattern: bytes) -> None:
    # Takes 10 ms; quadratic work would take minutes.
    started = thread_time()
    assert reply_address.sender(b'{"x":"' + pattern * (1024 * 1024 // len(pattern))) == (NOBODY, NO_NONCE, 0)
    assert thread_time() - started < 5


@given(st.binary())
def test_any_bytes_have_an_address_that_can_be_answered(data: bytes) -> None:
    agent_id, nonce, timestamp = reply_address.sender(data)
    assert is_id(agent_id)
    assert len(nonce) == 32
    assert timestamp >= 0


# --- Through the intake


def answered(data: bytes, now: int = NOW) -> tuple[int, Verdict]:
    """Return status and verdict of an authentic report that is refused at once."""
    return answered_to(envelope.seal(data, KEY), now)


def answered_to(sealed: Envelope, now: int = NOW) -> tuple[int, Verdict]:
    answer = Intake(Counters(), lambda: now).begin("application/json", sealed.to_bytes(), RING)
    assert isinstance(answer, Response)
    return answer.status, verdict.unseal(answer.body, RING, NONCE)


def test_a_strangers_malformed_report_gets_its_verdict() -> None:
    status, said = answered(ordered("timestamp", "nonce", "tick", "agent_id", sample="41"))
    assert (status, said.outcome, said.agent_id, said.clock_offset) == (400, "malformed", AGENT, 0)


def test_raw_utf_8_gets_its_verdict() -> None:
    status, said = answered(canonical.encode(REPORT)[:-1] + ',"of":"kä"}'.encode())
    assert (status, said.outcome, said.agent_id) == (400, "malformed", AGENT)


# What can be read is addressed by what it says, wherever that stands.
@pytest.mark.parametrize("first", ["agent_id", "telemetry"])
def test_a_report_of_another_time_gets_its_verdict(first: str) -> None:
    data = ordered(first)
    assert (data.index(b'"nonce"') > 1024) is (first == "telemetry")
    status, said = answered(data, NOW + 600_001)
    assert (status, said.outcome, said.agent_id, said.clock_offset) == (409, "clock_skew", AGENT, -600_001)


@pytest.mark.parametrize("now", [NOW, NOW + 600_001])
def test_a_report_that_its_origin_relayed_gets_its_verdict(now: int) -> None:
    data = canonical.encode(REPORT)
    for path in ((AGENT,), (OTHER_AGENT, AGENT)):
        sealed = envelope.seal(data, KEY, path[0])
        for relay, recipient in zip(path, (*path[1:], MANAGER), strict=True):
            sealed = envelope.forward(sealed, relay, KEY, recipient)
        status, said = answered_to(sealed, now)
        assert (status, said.outcome, said.agent_id, said.clock_offset) == (409, "relay_loop", AGENT, NOW - now)


def test_a_report_that_others_relayed_is_taken() -> None:
    sealed = envelope.forward(envelope.seal(canonical.encode(REPORT), KEY, OTHER_AGENT), OTHER_AGENT, KEY, MANAGER)
    begun = Intake(Counters(), lambda: NOW).begin("application/json", sealed.to_bytes(), RING)
    assert isinstance(begun, Begun)
    assert begun.incoming.relay_path == (OTHER_AGENT,)


def test_a_strangers_order_is_taken() -> None:
    data = ordered("telemetry", "timestamp", "nonce")
    begun = Intake(Counters(), lambda: NOW).begin("application/json", envelope.seal(data, KEY).to_bytes(), RING)
    assert isinstance(begun, Begun)
    assert begun.incoming.report == REPORT
