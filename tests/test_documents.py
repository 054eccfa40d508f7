"""README.md and DESIGN.md are true: what is generated is fresh, and what they name exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from generate import DOCUMENTS, PARTS, ROOT, generated

WRITTEN = [
    path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_parts_are_fresh(name: str) -> None:
    text = (ROOT / name).read_text()
    assert generated(text) == text, "run: make docs"


def test_every_part_stands_somewhere() -> None:
    texts = "".join((ROOT / name).read_text() for name in DOCUMENTS)
    assert [part for part in PARTS if f"<!-- generated: {part} -->" not in texts] == []


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)[^)]*\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_make_target_that_a_document_names_exists() -> None:
    help_text = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    named = {target for path in WRITTEN for target in re.findall(r"\bmake ([a-z]+(?:-[a-z0-9]+)*)\b", _code(path))}
    assert named, "the documents name no target at all"
    assert {target for target in named if not re.search(rf"^  {target}\b", help_text, re.MULTILINE)} == set()


def _code(path: Path) -> str:
    text = path.read_text()
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
