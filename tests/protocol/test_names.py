"""Ids, nonces and counters: one spelling each."""

from __future__ import annotations

import pytest

from kattila_protocol.errors import Malformed
from kattila_protocol.names import MANAGER, MAX_COUNTER, checked_counter, checked_id, checked_nonce, is_id
from protocol.samples import AGENT, NONCE

NO_IDS: list[object] = [
    "",
    MANAGER,
    AGENT.upper(),
    AGENT + "\n",
    " " + AGENT,
    AGENT[:-1],
    AGENT + "0",
    AGENT.replace("-", ""),
    "{" + AGENT + "}",
    "urn:uuid:" + AGENT,
    AGENT.replace("5", "\u0665"),
    AGENT.encode(),
    None,
    1,
    [AGENT],
    {"id": AGENT},
]


def test_id_is_a_uuid_in_lower_case() -> None:
    assert is_id(AGENT)
    assert checked_id(AGENT, "agent_id") == AGENT


@pytest.mark.parametrize("value", NO_IDS, ids=repr)
def test_no_id(value: object) -> None:
    assert not is_id(value)
    with pytest.raises(Malformed, match="boot_id is not a UUID"):
        checked_id(value, "boot_id")


def test_nonce_is_32_hex_digits() -> None:
    assert checked_nonce(NONCE) == NONCE


@pytest.mark.parametrize(
    "value", ["", NONCE[:-1], NONCE + "0", NONCE.upper(), NONCE + "\n", "g" * 32, None, 1], ids=repr
)
def test_no_nonce(value: object) -> None:
    with pytest.raises(Malformed, match="nonce is not"):
        checked_nonce(value)


@pytest.mark.parametrize("value", [0, 1, MAX_COUNTER])
def test_counter(value: int) -> None:
    assert checked_counter(value, "tick") == value


@pytest.mark.parametrize("value", [-1, MAX_COUNTER + 1, True, False, 1.0, "1", None, [1]], ids=repr)
def test_no_counter(value: object) -> None:
    with pytest.raises(Malformed, match="tick is not an integer from 0"):
        checked_counter(value, "tick")


def test_counter_below_its_least() -> None:
    with pytest.raises(Malformed, match="sample is not an integer from 1"):
        checked_counter(0, "sample", minimum=1)
