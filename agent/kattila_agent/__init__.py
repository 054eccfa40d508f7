"""Runs on every node: measures it, signs what it found, and delivers that to the manager."""

__version__ = "0.1.0"
