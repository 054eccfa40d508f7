"""Samples that wait on disk until they are delivered: one file for each. The oldest are dropped first, and counted."""

from kattila_agent.spool.folder import SpoolInUseError
from kattila_agent.spool.waiting import Spool, Waiting

__all__ = ["Spool", "SpoolInUseError", "Waiting"]
