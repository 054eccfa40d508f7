#!/usr/bin/python
"""Ansible module: several files at once, where to ask for one after the other takes most of a roll-out's time.

May live here: which files differ, and how they are replaced. Not here: what is in them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: kattila_units
short_description: Write units of systemd, all at once
description:
  - Does for several files what M(ansible.builtin.template) does for one, and asks the node once, not twice for each.
  - They belong to root, and everybody may read them.
options:
  folder:
    description: Where they are. It must be there.
    type: path
    default: /etc/systemd/system
  units:
    description: Their texts, by their names.
    type: dict
    required: true
"""
RETURN = """
units:
  description: Names of those that were written, or would be.
  type: list
  returned: always
"""

_OWN = {"owner": "root", "group": "root", "mode": "0644"}


def main() -> None:
    """Write the files, as Ansible asks for it."""
    arguments = {
        "folder": {"type": "path", "default": "/etc/systemd/system"},
        "units": {"type": "dict", "required": True},
    }
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    folder = Path(module.params["folder"])
    differences = [written(module, folder / name, text) for name, text in module.params["units"].items()]
    made = [difference for difference in differences if difference]
    names = [Path(difference["after_header"]).name for difference in made]
    module.exit_json(changed=bool(made), units=names, diff=made)


def written(module: AnsibleModule, path: Path, text: str) -> dict[str, str]:
    """Bring a file to its text, owner and mode; return what changed, or would in check mode, or nothing."""
    headers = {"before_header": str(path), "after_header": str(path)}
    before = path.read_bytes().decode(errors="replace") if path.exists() else ""
    if text != before and not module.check_mode:
        _replace(module, path, text)
    wanted = module.load_file_common_arguments({"path": str(path), **_OWN})
    belongs = not path.exists() or not module.set_fs_attributes_if_different(wanted, changed=False)
    return {} if text == before and belongs else {"before": before, "after": text, **headers}


def _replace(module: AnsibleModule, path: Path, text: str) -> None:
    descriptor, aside = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    module.atomic_move(aside, str(path))


if __name__ == "__main__":
    main()
