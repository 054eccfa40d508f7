"""What is built once for all tests of it."""

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
    """A folder that everybody may read, with the agent for all architectures."""
    with tempfile.TemporaryDirectory(prefix="kattila-built-") as folder:
        Path(folder).chmod(0o755)
        assert len(list(build_agent.build(MACHINES, Path(folder)))) == len(MACHINES)
        yield Path(folder)
