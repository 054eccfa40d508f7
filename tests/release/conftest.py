"""Fixtures of the release tests: the agent's files, built once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import build_agent
from support.knot import knot
from wheels import MACHINES

__all__ = ["knot"]


@pytest.fixture(scope="session")
def built() -> Iterator[Path]:
    """Yield a folder, readable by everyone, with the agent for all architectures."""
    with tempfile.TemporaryDirectory(prefix="kattila-built-") as folder:
        Path(folder).chmod(0o755)
        assert len(list(build_agent.build(MACHINES, Path(folder)))) == len(MACHINES)
        yield Path(folder)
