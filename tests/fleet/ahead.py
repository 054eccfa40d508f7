"""What needs neither Ansible nor another package, and is done while they are installed: python -m fleet.ahead root.

With skip-reason instead of root it says why the lab cannot run here, in one line, or nothing if it can.
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
from fleet.system import SEARCHED, group_folders, locked, told

PROGRAMS = ("ip", "mmdebstrap", "setpriv", "ssh", "ssh-keygen", "sysctl", "systemd-nspawn", "unshare")


def main(words: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    match words:
        case ["skip-reason"]:
            print(skip_reason())
            return 0
        case ["root"]:
            return told(_make_root)
    print(__doc__, file=sys.stderr)
    return 2


def skip_reason() -> str:
    """Why the lab cannot run here, in one line; empty if it can."""
    if os.geteuid() != 0:
        return "namespaces and containers need root"
    missing = [program for program in PROGRAMS if shutil.which(program, path=SEARCHED) is None]
    if missing:
        return f"missing on this machine: {', '.join(missing)}"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun, which wireguard-go needs"
    folders = group_folders("x")
    if not folders or not all(os.access(folder.parent, os.W_OK) for folder in folders):
        return "control groups cannot be made here"
    return ""


def _make_root() -> None:
    with locked(here()):
        make_root(here())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
