#!/usr/bin/python
"""Ansible module: what a roll-out has to know of a node beside its facts. It changes nothing.

May live here: reading that from the system, in place of programs that a node may not have.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: kattila_node
short_description: Tell who listens at ports of a node, how much room its folders have, and which paths are there
options:
  ports:
    description: TCP ports, of which is told who listens there.
    type: list
    elements: int
    default: []
  folders:
    description: Folders, of which is told how much can be written. They need not be there yet.
    type: list
    elements: path
    default: []
  paths:
    description: Paths, of which is told whether they are there.
    type: list
    elements: path
    default: []
"""
RETURN = """
listeners:
  description:
    - Every process that listens at one of the ports, as C(port), C(pid), C(program) and C(unit), the last being empty
      for a process that no unit of systemd started.
  type: list
  elements: dict
room:
  description: By folder, how many MiB can be written (C(free_mib)), and how many its files have now (C(used_mib)).
  type: dict
there:
  description: By path, for those that are there, where it leads, if it is a symbolic link, or nothing.
  type: dict
"""

_LISTENING = "0A"
_MIB = 1024 * 1024


def main() -> None:
    """Answer, as Ansible asks for it."""
    module = AnsibleModule(
        argument_spec={
            "ports": {"type": "list", "elements": "int", "default": []},
            "folders": {"type": "list", "elements": "path", "default": []},
            "paths": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    ports, folders, paths = (module.params[name] for name in ("ports", "folders", "paths"))
    module.exit_json(
        changed=False,
        listeners=[listener for port in ports for listener in read_listeners(port)],
        room={folder: read_room(Path(folder)) for folder in folders},
        there={path: read_link(Path(path)) for path in paths if os.path.lexists(path)},
    )


def read_listeners(port: int, system: Path = Path("/proc")) -> list[dict[str, object]]:
    """Return who listens at a TCP port, as RETURN says."""
    tables = [path for path in (system / "net/tcp", system / "net/tcp6") if path.exists()]
    sockets = {f"socket:[{inode}]" for table in tables for inode in parse_listening(table.read_text(), port)}
    pids = sorted(int(path.name) for path in system.iterdir() if path.name.isdigit()) if sockets else []
    found = [_told(system / str(pid), port) for pid in pids if sockets.intersection(_open_files(system / str(pid)))]
    # A socket of the kernel, or of another container, has nobody to be named.
    return found or ([{"port": port, "pid": 0, "program": "", "unit": ""}] if sockets else [])


def parse_listening(table: str, port: int) -> Iterator[str]:
    """Yield the inodes of the sockets that listen at a port, from /proc/net/tcp (proc(5))."""
    for line in table.splitlines()[1:]:
        words = line.split()
        if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
            yield words[9]


def parse_unit(groups: str) -> str:
    """Return the unit in whose control group a process is, from /proc/PID/cgroup (cgroups(7))."""
    found = re.findall(r"^(?:0:|\d+:name=systemd):.*?/([^/\n]+\.(?:service|scope))", groups, re.MULTILINE)
    return str(found[0]) if found else ""


def read_room(folder: Path) -> dict[str, int]:
    """Return what can be written in a folder, or will be once it is made, and what the files directly in it have."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    disk = os.statvfs(there)
    files = folder.iterdir() if folder.is_dir() else ()
    used = sum(path.lstat().st_size for path in files)
    return {"free_mib": disk.f_bavail * disk.f_frsize // _MIB, "used_mib": used // _MIB}


def read_link(path: Path) -> str:
    """Return where a symbolic link leads; of anything else nothing."""
    return str(path.readlink()) if path.is_symlink() else ""


def _told(process: Path, port: int) -> dict[str, object]:
    unit = program = ""
    with suppress(OSError):  # it has ended
        unit, program = parse_unit((process / "cgroup").read_text()), (process / "comm").read_text().strip()
    return {"port": port, "pid": int(process.name), "program": program, "unit": unit}


def _open_files(process: Path) -> Iterator[str]:
    with suppress(OSError):  # it has ended
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):  # it was closed
                yield str(descriptor.readlink())


if __name__ == "__main__":
    main()
