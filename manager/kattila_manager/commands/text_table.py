"""Formats tables for terminals."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from kattila_protocol.foreign_text import escaped

_GAP = "  "


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines with aligned columns, one for each row; the last column has no limit."""
    lines = [list(header), *(list(map(escaped, row)) for row in rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(_GAP.join(_padded(line, widths)).rstrip() for line in lines)


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [text + " " * (width - _width(text)) for text, width in zip(line, widths, strict=True)]


def _width(text: str) -> int:
    """Return the cells that a text takes: two per East Asian wide character (UAX #11), none per combining one."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )
