"""The error of commands that run once."""


class CommandError(Exception):
    """A command failed; the text says why and what to do."""
