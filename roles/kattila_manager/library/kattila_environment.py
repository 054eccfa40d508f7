#!/usr/bin/python
"""Ansible module: a file of settings, in which tokens are drawn once, on the node, and never told.

May live here: the lines of the file, and which of them are shown. Not here: what the settings are.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: kattila_environment
short_description: Write a file of settings, and draw the tokens in it once
description:
  - Writes lines of the form C(NAME=value). A token that the file has already is kept as it stands there, and one that
    it has not is drawn. No token leaves the node; a difference shows that there is one, and not which.
extends_documentation_fragment: [files]
options:
  path:
    description: The file. Its folder must be there.
    type: path
    required: true
  header:
    description: A comment for its first line.
    type: str
    required: true
  settings:
    description: The settings, in their order. One without a value is left out.
    type: dict
    required: true
  tokens:
    description: Names of further settings, which hold a token each.
    type: list
    elements: str
    default: []
"""

_TOKEN_BYTES = 32
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
_PLAIN = re.compile(r"[A-Za-z0-9_./:,*=@%+\[\]-]+")
_NOT_SHOWN = "(not shown)"


def main() -> None:
    """Write the file, as Ansible asks for it."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "header": {"type": "str", "required": True},
            "settings": {"type": "dict", "required": True},
            # They are names, which Ansible would take for the tokens themselves.
            "tokens": {"type": "list", "elements": "str", "default": [], "no_log": False},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    header, settings, names = (module.params[name] for name in ("header", "settings", "tokens"))
    path = Path(module.params["path"])
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    tokens = {name: secrets.token_urlsafe(_TOKEN_BYTES) for name in names} | tokens_in(before, names)
    after = text(header, settings, tokens)
    if after != before and not module.check_mode:
        write(module, path, after)
    changed = after != before
    if path.exists():
        changed = module.set_fs_attributes_if_different(module.load_file_common_arguments(module.params), changed)
    shown = {"before": shown_text(before, header, settings), "after": shown_text(after, header, settings)}
    module.exit_json(changed=changed, diff=shown | {"before_header": str(path), "after_header": str(path)})


def tokens_in(lines: str, names: Collection[str]) -> dict[str, str]:
    """Return the tokens that a file has, by name, each as it stands behind the `=`."""
    found = (match for line in lines.splitlines() if (match := _LINE.fullmatch(line)))
    return {match[1]: match[2].strip() for match in found if match[1] in names and match[2].strip()}


def text(header: str, settings: Mapping[str, object], tokens: Mapping[str, str]) -> str:
    """Return the text of the file."""
    lines = [f"{name}={quoted(str(value))}" for name, value in settings.items() if value not in ("", None)]
    return "\n".join([f"# {header}", *lines, *(f"{name}={token}" for name, token in tokens.items()), ""])


def quoted(value: str) -> str:
    """Return a value as python-dotenv reads it, in quotes where it needs them."""
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def shown_text(lines: str, header: str, settings: Collection[str]) -> str:
    """Return the lines of which it is known that they hold no secret, and of others the name."""
    return "".join(f"{_shown(line, header, settings)}\n" for line in lines.splitlines())


def _shown(line: str, header: str, settings: Collection[str]) -> str:
    match = _LINE.fullmatch(line)
    if match:
        return line if match[1] in settings else f"{match[1]}={_NOT_SHOWN}"
    return line if line in ("", f"# {header}") else _NOT_SHOWN


def write(module: AnsibleModule, path: Path, lines: str) -> None:
    """Put the file in place whole; until it has its owner and mode, root alone may read it."""
    os.umask(0o077)
    descriptor, aside = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(lines)
    module.atomic_move(aside, str(path))


if __name__ == "__main__":
    main()
