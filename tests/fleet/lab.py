"""A whole lab: whether it can run here, bringing it up, taking it down."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fleet.down import down
from fleet.place import Place
from fleet.plan import LAB
from fleet.root import make_root
from fleet.system import SEARCHED, LabError, group_folders, groups, locked, members
from fleet.up import up

PROGRAMS = ("ip", "mmdebstrap", "setpriv", "ssh", "ssh-keygen", "sysctl", "systemd-nspawn", "unshare")


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


def bring_up(place: Place, say: Callable[[str], None], anew: bool = False) -> None:
    """Boot the lab, unless it is up, or in any case; what a run left that was ended in the middle is removed first.

    Raises:
        LabError: it cannot run here, or did not come up.
    """
    if reason := skip_reason():
        raise LabError(reason)
    with locked(place) as lock:
        if anew or not is_up(place):
            _boot(place, lock, say)
    say("the lab is up")


def _boot(place: Place, lock: int, say: Callable[[str], None]) -> None:
    try:
        down(place, lock)
        say("root file system (made once, about half a minute)")
        make_root(place)
        up(LAB, place, lock, say)
    except KeyboardInterrupt:
        say("interrupted, removing the lab")
        down(place, lock)
        raise


def is_up(place: Place) -> bool:
    """Whether the lab came up, and all its nodes still run."""
    alive = {group.name for group in groups(place.prefix) if members(group.name)}
    return place.complete.exists() and alive >= {place.name(node.name) for node in LAB.nodes}


def take_down(place: Place) -> None:
    """Remove the lab, or what is left of it.

    Raises:
        LabError: something cannot be removed.
    """
    if os.geteuid() != 0:
        raise LabError("removing the lab needs root")
    with locked(place) as lock:
        down(place, lock)
