"""How long the nonces of queries are kept, and how many."""

from __future__ import annotations

import pytest

from kattila_agent.peer_api.seen_nonces import KEPT_MS, SeenNonces
from kattila_protocol.errors import Overloaded, Replay


def test_nonces_are_remembered_as_long_as_they_could_be_replayed() -> None:
    seen = SeenNonces()
    seen.add("a", 0)
    with pytest.raises(Replay):
        seen.add("a", KEPT_MS)
    seen.add("a", KEPT_MS + 1)


def test_nonces_are_bounded_without_forgetting_any() -> None:
    seen = SeenNonces(limit=2)
    seen.add("a", 0)
    seen.add("b", 1)
    with pytest.raises(Overloaded):
        seen.add("c", 2)
    with pytest.raises(Replay):
        seen.add("a", 2)
    seen.add("c", KEPT_MS + 1)
