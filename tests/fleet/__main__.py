"""`make fleet` and its kin: python -m fleet up | down | ssh NODE [COMMAND…] | run COMMAND….

up boots the lab of this checkout and says how to go on; a lab that is up stays as it is. down removes every trace.
ssh logs in to a node, run runs a command on the control host, with Ansible and the lab's inventory at hand.
Exit codes: 0 done, 1 failed, 2 wrong call.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

from fleet.lab import bring_up, take_down
from fleet.place import Place, here
from fleet.plan import LAB, underlay
from fleet.system import LabError, told
from fleet.up import control_environment, inside


def main(words: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    place = here()
    match words:
        case ["up" | "down" as what]:
            task = {"up": _bring_up, "down": _take_down}[what]
            return told(lambda: task(place))
        case ["ssh", node, *command]:
            return told(lambda: _become(place, ["ssh", "-F", str(place.state / "ssh_config"), node, *command]))
        case ["run", _, *_]:
            return told(lambda: _become(place, words[1:]))
    print(__doc__, file=sys.stderr)
    return 2


def _bring_up(place: Place) -> None:
    started = time.monotonic()
    bring_up(place, lambda text: print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True))
    print(summary(place))


def _take_down(place: Place) -> None:
    take_down(place)
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
