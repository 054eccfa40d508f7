"""Fixtures for the tests of kattila_keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.dns_proxy import DnsProxy, dns_proxy
from support.knot import Knot, knot

__all__ = ["knot"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring.json"


@pytest.fixture
def label(request: pytest.FixtureRequest) -> str:
    """Return a DNS label that no other test uses: all tests share one server."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")


@pytest.fixture
def counting_proxy(knot: Knot) -> Iterator[DnsProxy]:
    """Run a proxy in front of the server that counts queries."""
    with dns_proxy(knot.port) as proxy:
        yield proxy
