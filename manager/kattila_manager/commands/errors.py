"""The one error of commands, and how they speak.

May live here: what all commands share.
"""

from __future__ import annotations

from collections.abc import Callable

# Takes a line for stdout.
Say = Callable[[str], object]


class CommandError(Exception):
    """A command could not do what it was asked for; the text says why and what to do."""
