#!/usr/bin/python
"""Ansible module: write a settings file with tokens that are given or generated once, and never shown."""

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
short_description: Write a settings file, and generate its tokens once
description:
  - Writes lines of the form C(NAME=value). Tokens that are given are written. Otherwise tokens already in the
    file are kept, and missing ones are generated.
  - No generated token leaves the node. Diffs show the name of a token and hide its value.
extends_documentation_fragment: [files]
options:
  path:
    description: The file. Its folder must exist.
    type: path
    required: true
  header:
    description: The text of the comment in the first line.
    type: str
    required: true
  settings:
    description: The settings, written in this order. Settings without a value are left out.
    type: dict
    required: true
  tokens:
    description: Names of the settings that hold a token.
    type: list
    elements: str
    default: []
  given:
    description: Tokens to write instead of the ones in the file, by name. Empty ones count as not given.
    type: dict
    default: {}
"""

_TOKEN_BYTES = 32
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
_PLAIN = re.compile(r"[A-Za-z0-9_./:,*=@%+\[\]-]+")
_HIDDEN = "(hidden)"


def main() -> None:
    """Run the module: write the file and report the change."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "header": {"type": "str", "required": True},
            "settings": {"type": "dict", "required": True},
            # These are names. Without no_log=False, Ansible takes them for secrets.
            "tokens": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "given": {"type": "dict", "default": {}, "no_log": True},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    header, settings, names = (module.params[name] for name in ("header", "settings", "tokens"))
    path = Path(module.params["path"])
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    given = {name: quoted(str(token)) for name, token in module.params["given"].items() if token}
    tokens = {name: secrets.token_urlsafe(_TOKEN_BYTES) for name in names} | tokens_in(before, names) | given
    after = text(header, settings, tokens)
    if after != before and not module.check_mode:
        write(module, path, after)
    changed = after != before
    if path.exists():
        changed = module.set_fs_attributes_if_different(module.load_file_common_arguments(module.params), changed)
    shown = {"before": shown_text(before, header, settings), "after": shown_text(after, header, settings)}
    module.exit_json(changed=changed, diff=shown | {"before_header": str(path), "after_header": str(path)})


def tokens_in(lines: str, names: Collection[str]) -> dict[str, str]:
    """Return the tokens in a file by name, each exactly as it stands after the `=`."""
    found = (match for line in lines.splitlines() if (match := _LINE.fullmatch(line)))
    return {match[1]: match[2].strip() for match in found if match[1] in names and match[2].strip()}


def text(header: str, settings: Mapping[str, object], tokens: Mapping[str, str]) -> str:
    """Return the text of the file."""
    lines = [f"{name}={quoted(str(value))}" for name, value in settings.items() if value not in ("", None)]
    return "\n".join([f"# {header}", *lines, *(f"{name}={token}" for name, token in tokens.items()), ""])


def quoted(value: str) -> str:
    """Return a value in the syntax of python-dotenv, quoted if necessary."""
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def shown_text(lines: str, header: str, settings: Collection[str]) -> str:
    """Return the lines with everything hidden that may be secret; setting names stay visible."""
    return "".join(f"{_shown(line, header, settings)}\n" for line in lines.splitlines())


def _shown(line: str, header: str, settings: Collection[str]) -> str:
    match = _LINE.fullmatch(line)
    if match:
        return line if match[1] in settings else f"{match[1]}={_HIDDEN}"
    return line if line in ("", f"# {header}") else _HIDDEN


def write(module: AnsibleModule, path: Path, lines: str) -> None:
    """Replace the file atomically; only root can read it until its owner and mode are set."""
    os.umask(0o077)
    descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(lines)
    module.atomic_move(temporary, str(path))


if __name__ == "__main__":
    main()
