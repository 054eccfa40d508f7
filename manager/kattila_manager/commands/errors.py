"""The error that commands raise, and the type of their output function."""

from __future__ import annotations

from collections.abc import Callable

# Prints a line to stdout.
Say = Callable[[str], object]


class CommandError(Exception):
    """A command failed; the text gives the cause and the remedy."""
