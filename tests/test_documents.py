"""The documents agree with the code: generated parts are fresh; links, make targets and modules exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from generate import DOCUMENTS, PARTS, ROOT, generated

from kattila_manager.topology.presence import Presence

BIN = Path(sys.executable).parent
OPERATIONS = (ROOT / "docs" / "OPERATIONS.md").read_text()
WRITTEN = [
    path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_parts_are_fresh(name: str) -> None:
    text = (ROOT / name).read_text()
    assert generated(text) == text, "run: make docs"


def test_every_generated_part_is_used() -> None:
    texts = "".join((ROOT / name).read_text() for name in DOCUMENTS)
    assert [part for part in PARTS if f"<!-- generated: {part} -->" not in texts] == []


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(path: Path) -> None:
    broken = []
    for target, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", path.read_text()):
        linked = (path.parent / target).resolve() if target else path
        if not linked.exists() or (heading and heading not in _anchors(linked)):
            broken.append(f"{target}#{heading}" if heading else target)
    assert broken == []


def test_paths_in_the_architecture_exist() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    exist = {f"/{path}" for path in tracked}
    exist |= {f"/{folder}/" for path in tracked for folder in Path(path).parents}
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:\w[\w.-]*/)*(?:\w+\.(?:json|py|toml|yml)|\w[\w.-]*/))`", text))
    assert len(named) > 40
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in exist)} == set()


def test_names_in_the_how_tos_exist() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    how_tos = text[text.index("\n## How to extend it") : text.index("\n## The manager in detail")]
    named = set(re.findall(r"`(_?[A-Z]\w+|_?[a-z]\w+(?=\(\)))(?:\(\))?`", how_tos))
    assert {"COLLECTORS", "Telemetry", "Endpoints"} <= named
    sources = "".join(
        path.read_text() for folder in ("agent", "manager", "protocol") for path in (ROOT / folder).rglob("*.py")
    )
    assert named - set(re.findall(r"\w+", sources)) == set()


def test_tests_that_documents_name_exist() -> None:
    named = {name for path in WRITTEN for name in re.findall(r"`(test_\w+)`", path.read_text())}
    # Tracked files only: below tests/fleet a running lab has whole nodes.
    command = ["git", "ls-files", "tests/**/test_*.py", "tests/test_*.py"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    sources = "".join((ROOT / name).read_text() for name in tracked)
    assert {name for name in named if f"def {name}(" not in sources} == set()


def test_every_statement_about_an_attacker_names_its_test() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    tables = re.findall(r"^\| (?:an?|the) .+ cannot \| test \|\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [line.strip("|\n ").split(" | ") for table in tables for line in table.splitlines()]
    assert len(tables) > 3
    assert [what for what, tests in rows if not re.search(r"`test_\w+`|`tests/\S+\.py`", tests)] == []
    named = {path for _, tests in rows for path in re.findall(r"`(tests/\S+\.py)`", tests)}
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_documents_that_code_refers_to_exist() -> None:
    pattern = r"\b(docs/|bench/)?[A-Z]+\.md\b|docs/decisions/[0-9]{4}"
    command = ["git", "grep", "-hoE", pattern, "--", ":!*.md", ":!tests/docs"]
    found = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    exist = {str(path.relative_to(ROOT)) for path in WRITTEN}
    exist |= {path.name for path in WRITTEN} | {name[:19] for name in exist if name.startswith("docs/decisions/")}
    assert len(found) > 3
    assert found - exist == set()


def test_the_documented_states_of_agents_exist() -> None:
    table = re.search(r"^\| state \| meaning \|\n\|[-|]+\n((?:\|.*\n)+)", OPERATIONS, re.MULTILINE)
    assert table is not None
    assert re.findall(r"^\| `(\w+)`", table[1], re.MULTILINE) == list(Presence)


@pytest.mark.parametrize("command", ["kattila-manager", "kattila-agent"])
def test_commands_and_flags_exist(command: str) -> None:
    shown = subprocess.run([BIN / command, "--help"], capture_output=True, text=True, check=True).stdout
    if command == "kattila-manager":
        named = set(re.findall(r"\bkattila-manager (?!kattila-)([a-z][a-z-]+)", _code(ROOT / "docs" / "OPERATIONS.md")))
        known = set(re.findall(r"^    ([a-z-]+)", shown, re.MULTILINE))
    else:
        named = set(re.findall(r"(?:agent-amd64|kattila-agent) (-[a-z][a-z-]*)", OPERATIONS))
        named |= set(re.findall(r"^\| `(-[a-z-]+)", OPERATIONS, re.MULTILINE))
        known = set(re.findall(r"(?<![\w-])-[a-z][a-z-]+", shown))
    assert named
    assert named - known == set()


def test_every_make_target_that_a_document_names_exists() -> None:
    help_text = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    named = {target for path in WRITTEN for target in re.findall(r"\bmake ([a-z]+(?:-[a-z0-9]+)*)\b", _code(path))}
    assert named, "the documents name no target at all"
    assert {target for target in named if not re.search(rf"^  {target}\b", help_text, re.MULTILINE)} == set()


def test_contributing_has_the_time_of_every_make_target() -> None:
    help_text = subprocess.run(["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^  ([a-z0-9-]+) ", help_text, re.MULTILINE))
    rows = re.findall(r"^\| (`make .*`.*) \|.*\| .+ \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert {target for row in rows for target in re.findall(r"`make ([a-z0-9-]+)", row)} == targets


def _code(path: Path) -> str:
    text = path.read_text()
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a Markdown document's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
    return {f"{anchor}-{number}" if number else anchor for anchor, last in found.items() for number in range(last + 1)}
