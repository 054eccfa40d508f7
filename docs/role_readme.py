"""Write a role's README from its meta/argument_specs.yml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml


def role_readme(role: Path) -> str:
    """Return the description of a role and the table of its variables, as Markdown."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    main = specs["main"]
    lines = [f"{main['short_description']}.", "", *(f"- {_text(item)}" for item in main["description"]), ""]
    lines += ["| variable | type | default | meaning |", "|---|---|---|---|", *_rows(main["options"])]
    others = [f"- `{name}`: {_text(spec['short_description'])}." for name, spec in specs.items() if name != "main"]
    if others:
        lines += ["", "Other entry points (`tasks_from`), with the same variables:", "", *others]
    return "\n".join([*lines, ""])


def _rows(options: Mapping[str, Mapping[str, Any]], prefix: str = "") -> Iterator[str]:
    for name, option in options.items():
        kind = f"list of {option['elements']}" if "elements" in option else option["type"]
        yield f"| `{prefix}{name}` | {kind} | {_default(option)} | {_meaning(option)} |"
        yield from _rows(option.get("options", {}), f"{prefix}{name}.")


def _default(option: Mapping[str, Any]) -> str:
    if "default" not in option:
        return "required" if option.get("required") else ""
    value = option["default"]
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{_text(str(value))}`" if value != "" else "empty"


def _meaning(option: Mapping[str, Any]) -> str:
    choices = f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}." if "choices" in option else ""
    return _text(option["description"]) + choices


def _text(text: str) -> str:
    """Return a text on one line that is safe in a table."""
    return " ".join(text.split()).replace("|", "\\|")
