"""Each id, nonce and counter has exactly one spelling."""

from __future__ import annotations

import pytest

from kattila_protocol.errors import Malformed
from kattila_protocol.names import MANAGER, MAX_COUNTER, checked_counter, checked_id, checked_nonce, is_id
from protocol.samples import AGENT, NONCE

INVALID_IDS: list[object] = [
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


def test_an_id_is_a_uuid_in_lower_case() -> None:
    assert is_id(AGENT)
    assert checked_id(AGENT, "agent_id") == AGENT


@pytest.mark.parametrize("value", INVALID_IDS, ids=repr)
def test_an_invalid_id_is_refused(value: object) -> None:
    assert not is_id(value)
    with pytest.raises(Malformed, match="boot_id is not a UUID"):
        checked_id(value, "boot_id")


def test_a_nonce_is_32_hex_digits() -> None:
    assert checked_nonce(NONCE) == NONCE


@pytest.mark.parametrize(
    "value", ["", NONCE[:-1], NONCE + "0", NONCE.upper(), NONCE + "\n", "g" * 32, None, 1], ids=repr
)
def test_an_invalid_nonce_is_refused(value: object) -> None:
    with pytest.raises(Malformed, match="nonce is not"):
        checked_nonce(value)


@pytest.mark.parametrize("value", [0, 1, MAX_COUNTER])
def test_a_counter_within_bounds_is_returned(value: int) -> None:
    assert checked_counter(value, "tick") == value


@pytest.mark.parametrize("value", [-1, MAX_COUNTER + 1, True, False, 1.0, "1", None, [1]], ids=repr)
def test_an_invalid_counter_is_refused(value: object) -> None:
    with pytest.raises(Malformed, match="tick is not an integer from 0"):
        checked_counter(value, "tick")


def test_a_counter_below_its_minimum_is_refused() -> None:
    with pytest.raises(Malformed, match="sample is not an integer from 1"):
        checked_counter(0, "sample", minimum=1)
