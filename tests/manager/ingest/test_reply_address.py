"""The reply address in an authentic report that cannot be parsed."""

from __future__ import annotations

import itertools
import json
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kattila_manager.ingest.reply_address import find_reply_address
from kattila_protocol import canonical
from kattila_protocol.names import is_id
from protocol.samples import AGENT, NONCE, NOW, OTHER_AGENT, OTHER_NONCE

NOBODY = "00000000-0000-0000-0000-000000000000"
NO_NONCE = "0" * 32
KNOWN = (AGENT, NONCE, NOW)

ADDRESS = {"agent_id": AGENT, "nonce": NONCE, "timestamp": NOW}


@pytest.mark.parametrize("names", list(itertools.permutations(ADDRESS)))
@pytest.mark.parametrize("spacing", [(",", ":"), (", ", ": "), (" ,\n\t", " : ")])
def test_the_members_are_found_in_any_order(names: tuple[str, ...], spacing: tuple[str, str]) -> None:
    members = {name: ADDRESS[name] for name in names}
    assert find_reply_address(json.dumps({**members, "x": 1}, separators=spacing).encode()) == KNOWN
    assert find_reply_address(json.dumps({"x": 1, **members}, separators=spacing).encode()) == KNOWN


def test_each_member_is_found_without_the_others() -> None:
    assert find_reply_address(b'{"agent_id":"%s"}' % AGENT.encode()) == (AGENT, NO_NONCE, 0)
    assert find_reply_address(b'{"nonce":"%s"}' % NONCE.encode()) == (NOBODY, NONCE, 0)
    assert find_reply_address(b'{"timestamp":%d}' % NOW) == (NOBODY, NO_NONCE, NOW)


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
def test_nested_members_and_strings_are_ignored(front: bytes) -> None:
    address = canonical.encode(ADDRESS)
    assert find_reply_address(b"{" + front % (OTHER_AGENT.encode(), OTHER_NONCE.encode()) + address[1:]) == KNOWN


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
def test_invalid_values_become_zeros(old: str, new: str, found: tuple[str, str, int]) -> None:
    assert find_reply_address(canonical.encode(ADDRESS).replace(old.encode(), new.encode())) == found


def test_only_the_first_kilobyte_is_searched() -> None:
    front = b'{"x":"%s",'
    within = 1024 - len(canonical.encode(ADDRESS)) - len(front) + len("%s") + 1
    rest = canonical.encode(ADDRESS)[1:]
    assert find_reply_address(front % (b"x" * within) + rest) == KNOWN
    # A truncated number may be incomplete.
    assert find_reply_address(front % (b"x" * (within + 1)) + rest) == (AGENT, NONCE, 0)
    assert find_reply_address(front % (b"x" * 1024) + rest) == (NOBODY, NO_NONCE, 0)


@pytest.mark.parametrize("pattern", [b'"', b'\\"', b'"\\', b"{", b"]", b'"nonce":', b'"nonce" ', b"\xff", b" "])
def test_no_input_takes_long(pattern: bytes) -> None:
    # Takes 10 ms; quadratic work would take minutes.
    started = thread_time()
    assert find_reply_address(b'{"x":"' + pattern * (1024 * 1024 // len(pattern))) == (NOBODY, NO_NONCE, 0)
    assert thread_time() - started < 5


@given(st.binary())
def test_any_bytes_have_a_valid_reply_address(data: bytes) -> None:
    agent_id, nonce, timestamp = find_reply_address(data)
    assert is_id(agent_id)
    assert len(nonce) == 32
    assert timestamp >= 0
