"""Makes text of others safe to show. Refusals, logs, terminals and pages use this one rule.

Host names, labels, reasons and answers come from other machines. They may contain what moves a cursor, hides text,
rings a bell, ends a line or reverses the direction of writing, and they may be long.
"""

from __future__ import annotations

import unicodedata

# Longer host names than DNS allows (RFC 1035, section 2.3.4) are cut, and so are all other names.
NAME_LENGTH = 64
# For the reason of a refusal. A verdict, which contains it twice, stays well within its bound.
DETAIL_LENGTH = 500
# Control, format (such as bidirectional marks), surrogate, private, unassigned; line and paragraph separators.
_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def shown(text: str, length: int = NAME_LENGTH) -> str:
    r"""Return a text on one line, with at most `length` characters, and others than letters and signs as \uXXXX.

    Pages escape it for HTML in addition.
    """
    plain = escaped(text[: length + 1])
    return plain if len(plain) <= length else plain[: length - 1] + "…"


def shown_lines(text: str) -> str:
    """Return a text of any length whose lines may contain text of others; only its line feeds stay."""
    return "\n".join(map(escaped, text.split("\n")))


def escaped(text: str) -> str:
    r"""Return a text on one line, of any length, with others than letters and signs as \uXXXX, as in JSON."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _UNSHOWN else c for c in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
