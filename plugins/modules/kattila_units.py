#!/usr/bin/python
"""Ansible module: write several unit files in one call. One task per file took most of a rollout's time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: kattila_units
short_description: Write several systemd units in one call
description:
  - Does for several files what M(ansible.builtin.template) does for one, with one connection to the node instead of
    two per file.
  - The files are owned by root and readable by everyone.
options:
  folder:
    description: The folder to write to. It must exist.
    type: path
    default: /etc/systemd/system
  units:
    description: The text of each unit, by file name.
    type: dict
    required: true
"""
RETURN = """
units:
  description: Names of the units that were written, or would be in check mode.
  type: list
  returned: always
"""

_ATTRIBUTES = {"owner": "root", "group": "root", "mode": "0644"}


def main() -> None:
    """Run the module: write the files and report the changes."""
    arguments = {
        "folder": {"type": "path", "default": "/etc/systemd/system"},
        "units": {"type": "dict", "required": True},
    }
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    folder = Path(module.params["folder"])
    differences = [write(module, folder / name, text) for name, text in module.params["units"].items()]
    changes = [difference for difference in differences if difference]
    names = [Path(difference["after_header"]).name for difference in changes]
    module.exit_json(changed=bool(changes), units=names, diff=changes)


def write(module: AnsibleModule, path: Path, text: str) -> dict[str, str]:
    """Write a file with its owner and mode; return the difference, empty if nothing changed.

    In check mode the difference is returned and nothing is written.
    """
    headers = {"before_header": str(path), "after_header": str(path)}
    before = path.read_bytes().decode(errors="replace") if path.exists() else ""
    if text != before and not module.check_mode:
        _replace(module, path, text)
    wanted = module.load_file_common_arguments({"path": str(path), **_ATTRIBUTES})
    attributes_match = not path.exists() or not module.set_fs_attributes_if_different(wanted, changed=False)
    return {} if text == before and attributes_match else {"before": before, "after": text, **headers}


def _replace(module: AnsibleModule, path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    module.atomic_move(temporary, str(path))


if __name__ == "__main__":
    main()
