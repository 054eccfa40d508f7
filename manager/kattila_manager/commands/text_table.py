"""Tables for people who read a terminal.

May live here: columns that line up. Not here: what stands in them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_GAP = "  "


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines with aligned columns; the last column may be as long as it likes."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(_GAP.join(_padded(line, widths)).rstrip() for line in lines)


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [text + " " * (width - _width(text)) for text, width in zip(line, widths, strict=True)]


def _width(text: str) -> int:
    """Return how many cells a text takes: East Asian wide characters two (UAX #11), combining ones none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )
