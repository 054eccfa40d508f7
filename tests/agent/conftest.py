"""What the tests of the agent start."""

from __future__ import annotations

from support.knot import knot

__all__ = ["knot"]
