"""Preparation that needs no Python packages and runs while they are installed: python -m fleet.prerequisites COMMAND.

The command root makes the nodes' root file system. skip-reason prints in one line why the lab cannot run here, or
nothing if it can.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from fleet.place import here
from fleet.root import make_root
from fleet.system import SEARCH_PATH, exit_code, group_folders, locked

PROGRAMS = ("ip", "mmdebstrap", "setpriv", "ssh", "ssh-keygen", "sysctl", "systemd-nspawn", "unshare")


def main(words: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    match words:
        case ["skip-reason"]:
            print(skip_reason())
            return 0
        case ["root"]:
            return exit_code(_make_root)
    print(__doc__, file=sys.stderr)
    return 2


def skip_reason() -> str:
    """Return in one line why the lab cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "not root: namespaces and containers need root"
    missing = [program for program in PROGRAMS if shutil.which(program, path=SEARCH_PATH) is None]
    if missing:
        return f"missing programs: {', '.join(missing)}"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun does not exist: wireguard-go needs it"
    folders = group_folders("x")
    if not folders or not all(os.access(folder.parent, os.W_OK) for folder in folders):
        return "control groups cannot be created on this machine"
    return ""


def _make_root() -> None:
    with locked(here()):
        make_root(here())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
