"""Write the parts of the documents that come from code: settings, database schema, role variables (`make docs`)."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from role_readme import role_readme

import kattila_agent.config
import kattila_manager.config
from kattila_manager.store.schema import schema_table
from kattila_settings.settings import settings_table

ROOT = Path(__file__).resolve().parent.parent
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
DOCUMENTS = ("docs/OPERATIONS.md", "docs/SCHEMA.md", *(f"roles/{role}/README.md" for role in ROLES))
PARTS: dict[str, Callable[[], str]] = {
    "agent settings": lambda: settings_table(kattila_agent.config.SETTINGS),
    "manager settings": lambda: settings_table(kattila_manager.config.SETTINGS),
    "schema": schema_table,
    **{f"role {role}": partial(role_readme, ROOT / "roles" / role) for role in ROLES},
}
_PART = re.compile(r"(<!-- generated: ([a-z_ ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def generated(text: str) -> str:
    """Return the document with its generated parts renewed.

    Raises: KeyError for a part that has no generator.
    """
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", text)


def main() -> int:
    """Renew the generated parts of all documents; write only the files that change."""
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text()
        after = generated(before)
        if after != before:
            path.write_text(after)
            print(f"updated {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
