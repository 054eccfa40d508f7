"""How long the nonces of queries are kept, and how many."""

from __future__ import annotations

import pytest

from kattila_agent.peer_api.seen_nonces import KEPT_MS, SeenNonces
from kattila_protocol.errors import Overloaded, Replay

ONE, OTHER = "192.0.2.1", "192.0.2.2"


def test_nonces_are_remembered_as_long_as_they_could_be_replayed() -> None:
    seen = SeenNonces()
    seen.add("a", ONE, 0)
    with pytest.raises(Replay):
        seen.add("a", OTHER, KEPT_MS)
    seen.add("a", ONE, KEPT_MS + 1)


def test_nonces_are_bounded_without_forgetting_any() -> None:
    seen = SeenNonces(limit=2)
    seen.add("a", ONE, 0)
    seen.add("b", OTHER, 1)
    with pytest.raises(Overloaded):
        seen.add("c", ONE, 2)
    with pytest.raises(Replay):
        seen.add("a", ONE, 2)
    seen.add("c", ONE, KEPT_MS + 1)


def test_nonces_of_one_source_are_bounded_until_they_are_forgotten() -> None:
    seen = SeenNonces(limit_of_one_source=1)
    seen.add("a", ONE, 0)
    with pytest.raises(Overloaded):
        seen.add("b", ONE, 1)
    seen.add("b", OTHER, 1)
    seen.add("c", ONE, KEPT_MS + 1)


def test_the_addresses_of_an_ipv6_network_are_one_source() -> None:
    seen = SeenNonces(limit_of_one_source=1)
    seen.add("a", "2001:db8::1", 0)
    with pytest.raises(Overloaded):
        seen.add("b", "2001:db8::2", 0)
    seen.add("b", "2001:db8:0:1::2", 0)
