"""The parts of README.md and DESIGN.md that say what the code says: `make docs` writes them, a test compares them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import kattila_agent.config
import kattila_manager.config
from kattila_manager.store.schema import schema_table
from kattila_settings.reading import settings_table

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "DESIGN.md")
PARTS: dict[str, Callable[[], str]] = {
    "agent settings": lambda: settings_table(kattila_agent.config.SETTINGS),
    "manager settings": lambda: settings_table(kattila_manager.config.SETTINGS),
    "schema": schema_table,
}
_PART = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def generated(text: str) -> str:
    """Return a document with its generated parts made anew; raises KeyError for a part that nobody makes."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", text)


def main() -> int:
    """Write what changed."""
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text()
        after = generated(before)
        if after != before:
            path.write_text(after)
            print(f"{name} is brought up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
