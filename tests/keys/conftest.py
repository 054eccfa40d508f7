"""What the tests of kattila_keys start."""

from __future__ import annotations

from support.knot import knot

__all__ = ["knot"]
