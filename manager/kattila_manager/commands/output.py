"""Writes what commands show to stdout, and handles a stdout that is closed, full, or not UTF-8."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper

from kattila_protocol.foreign_text import shown_lines


class OutputError(Exception):
    """Stdout cannot be written; the text gives the cause and the remedy."""


def prepare() -> None:
    """Make stdin, stdout and stderr usable; call this before a file is opened."""
    # A file would get the number of a closed stream. Writing to this stdout fails, and to this stderr does nothing.
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        if not _is_open(number):
            os.dup2(os.open(os.devnull, flags), number)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open
    if isinstance(sys.stdout, TextIOWrapper):
        # Names and labels may contain characters that the terminal lacks.
        sys.stdout.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """Print one or more lines to stdout. Raises OutputError; BrokenPipeError if the reader has ended."""
    with _errors_explained():
        sys.stdout.write(f"{shown_lines(line)}\n")


def write(data: bytes) -> None:
    """Write bytes to stdout, unchanged. Raises as `say` does."""
    with _errors_explained():
        sys.stdout.buffer.write(data)


def flush() -> None:
    """Write what is still in memory. Raises as `say` does."""
    with _errors_explained():
        sys.stdout.flush()


def complain(line: str) -> None:
    """Write one or more lines to stderr, if that can be written."""
    with suppress(OSError):
        sys.stderr.write(f"{shown_lines(line)}\n")
        sys.stderr.flush()


def discard() -> None:
    """Drop what could not be written, so that the interpreter does not fail on it at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def _errors_explained() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to stdout ({error.strerror}): check where the output goes") from None


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
