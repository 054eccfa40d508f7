"""`make fleet` and its kin: python -m fleet up | down | ssh NODE [COMMAND…] | run COMMAND… | skip-reason.

up boots the lab of this checkout and says how to go on; a lab that is up stays as it is. down removes every trace.
ssh logs in to a node, run runs a command on the control host, with Ansible and the lab's inventory at hand.
Exit codes: 0 done, 1 failed, 2 wrong call.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fleet.down import down
from fleet.place import Place, here
from fleet.plan import LAB, underlay
from fleet.root import make_root
from fleet.system import SEARCHED, LabError, group_folders, groups, locked, members
from fleet.up import control_environment, inside, up

PROGRAMS = ("ip", "mmdebstrap", "setpriv", "ssh", "ssh-keygen", "sysctl", "systemd-nspawn", "unshare")


def main(words: Sequence[str]) -> int:
    place = here()
    match words:
        case ["up"]:
            return _told(lambda: bring_up(place))
        case ["down"]:
            return _told(lambda: take_down(place))
        case ["skip-reason"]:
            print(skip_reason())
            return 0
        case ["ssh", node, *command]:
            return _told(lambda: _become(place, ["ssh", "-F", str(place.state / "ssh_config"), node, *command]))
        case ["run", _, *_]:
            return _told(lambda: _become(place, words[1:]))
    print(__doc__, file=sys.stderr)
    return 2


def _told(task: Callable[[], None]) -> int:
    try:
        task()
    except LabError as error:
        print(f"fleet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def skip_reason() -> str:
    """Why the lab cannot run here, in one line; empty if it can."""
    if os.geteuid() != 0:
        return "namespaces and containers need root"
    missing = [program for program in PROGRAMS if shutil.which(program, path=SEARCHED) is None]
    if missing:
        return f"missing on this machine: {', '.join(missing)}"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun, which wireguard-go needs"
    if not group_folders("x") or not all(os.access(path.parent, os.W_OK) for path in group_folders("x")):
        return "control groups cannot be made here"
    return ""


def bring_up(place: Place) -> None:
    """Boot the lab, unless it is up; what a run left that was ended in the middle is removed first."""
    if reason := skip_reason():
        raise LabError(reason)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)

    with locked(place) as lock:
        if not is_up(place):
            _boot_anew(place, lock, say)
    say("the lab is up")
    print(summary(place))


def _boot_anew(place: Place, lock: int, say: Callable[[str], None]) -> None:
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
    if os.geteuid() != 0:
        raise LabError("removing the lab needs root")
    with locked(place) as lock:
        down(place, lock)
    print("The lab is down.")


def summary(place: Place) -> str:
    """What there is, and how to go on."""
    lines = [
        f"  {node.name:12} {', '.join(map(str, underlay(LAB, node))):38} {_task(node.name, node.site)}"
        for node in LAB.nodes
    ]
    return "\n".join([
        f"Nodes, all under names in {LAB.zone}:",
        *lines,
        "A shell on a node:              make fleet-ssh NODE=north-hub",
        'A command on the control host:  make fleet-run COMMAND="ansible all -m ansible.builtin.ping"',
        f"Its inventory and ssh_config:   {place.state}/",
        f"Inside its network:             {' '.join(inside(place, LAB.control))} COMMAND",
        "Remove it all:                  make fleet-down",
    ])  # fmt: skip


def _task(name: str, site: str | None) -> str:
    if site:
        hub = LAB.hub_of(name)
        return f"agent, site {site}" + (f", behind {hub}" if hub else "")
    return {LAB.manager: "manager", LAB.resolver: "DNS, TSIG-signed updates"}[name]


def _become(place: Place, words: Sequence[str]) -> None:
    """Run a command on the control host in place of this program."""
    if not place.complete.exists():
        raise LabError("the lab is not up: make fleet")
    os.chdir(place.checkout)
    every = [*inside(place, LAB.control), *words]
    os.execvpe(every[0], every, control_environment(place))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
