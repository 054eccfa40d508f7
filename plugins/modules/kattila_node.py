#!/usr/bin/python
"""Ansible module: read what a rollout needs to know about a node beyond its facts. Changes nothing.

It reads from the system directly, because a node may lack the usual programs.
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
short_description: Return a node's listeners, free disk space and existing paths
options:
  ports:
    description: TCP ports whose listeners to return.
    type: list
    elements: int
    default: []
  folders:
    description: Folders whose disk space to return. They need not exist yet.
    type: list
    elements: path
    default: []
  paths:
    description: Paths to check for existence.
    type: list
    elements: path
    default: []
"""
RETURN = """
listeners:
  description:
    - Every process that listens on one of the ports, with C(port), C(pid), C(program) and C(unit). C(unit) is empty for
      a process that no systemd unit started.
  type: list
  elements: dict
space:
  description: >-
    By folder, the MiB that can still be written (C(free_mib)), the size of its files (C(used_mib)), and the number of
    its file system (C(disk)).
  type: dict
existing:
  description: By existing path, the target of a symbolic link; empty for anything else.
  type: dict
"""

_LISTENING = "0A"
_MIB = 1024 * 1024


def main() -> None:
    """Run the module."""
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
        space={folder: read_space(Path(folder)) for folder in folders},
        existing={path: read_link(Path(path)) for path in paths if os.path.lexists(path)},
    )


def read_listeners(port: int, system: Path = Path("/proc")) -> list[dict[str, object]]:
    """Return the processes that listen on a TCP port, in the form documented in RETURN."""
    tables = [path for path in (system / "net/tcp", system / "net/tcp6") if path.exists()]
    sockets = {f"socket:[{inode}]" for table in tables for inode in parse_listening(table.read_text(), port)}
    pids = sorted(int(path.name) for path in system.iterdir() if path.name.isdigit()) if sockets else []
    found = [_listener(system / str(pid), port) for pid in pids if sockets.intersection(_open_files(system / str(pid)))]
    # A socket of the kernel or of another container belongs to no visible process.
    return found or ([{"port": port, "pid": 0, "program": "", "unit": ""}] if sockets else [])


def parse_listening(table: str, port: int) -> Iterator[str]:
    """Yield the inodes of the sockets that listen on a port, from /proc/net/tcp (proc(5))."""
    for line in table.splitlines()[1:]:
        words = line.split()
        if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
            yield words[9]


def parse_unit(groups: str) -> str:
    """Return the systemd unit of a process, from /proc/PID/cgroup (cgroups(7)); empty if it has none."""
    found = re.findall(r"^(?:0:|\d+:name=systemd):.*?/([^/\n]+\.(?:service|scope))", groups, re.MULTILINE)
    return str(found[0]) if found else ""


def read_space(folder: Path) -> dict[str, int]:
    """Return the free space for a folder and the size of the files directly in it, in MiB, and its file system.

    If the folder does not exist yet, its nearest existing parent counts.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    disk = os.statvfs(existing)
    files = folder.iterdir() if folder.is_dir() else ()
    used = sum(path.lstat().st_size for path in files)
    return {"free_mib": disk.f_bavail * disk.f_frsize // _MIB, "used_mib": used // _MIB, "disk": existing.stat().st_dev}


def read_link(path: Path) -> str:
    """Return the target of a symbolic link; empty for anything else."""
    return str(path.readlink()) if path.is_symlink() else ""


def _listener(process: Path, port: int) -> dict[str, object]:
    unit = program = ""
    with suppress(OSError):  # the process has ended
        unit, program = parse_unit((process / "cgroup").read_text()), (process / "comm").read_text().strip()
    return {"port": port, "pid": int(process.name), "program": program, "unit": unit}


def _open_files(process: Path) -> Iterator[str]:
    with suppress(OSError):  # the process has ended
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):  # the file was closed
                yield str(descriptor.readlink())


if __name__ == "__main__":
    main()
