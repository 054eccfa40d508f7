"""Fixtures for the tests of the agent."""

from __future__ import annotations

from support.knot import knot

__all__ = ["knot"]
