"""The commands behind `make fleet`: python -m fleet up | down | ssh NODE [COMMAND…] | run COMMAND….

up boots the lab of this checkout, unless it is up already, and shows what to do next. down removes every trace of it.
ssh logs in to a node. run runs a command on the control host, with Ansible and the lab's inventory.
Exit codes: 0 success, 1 failure, 2 wrong usage.
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
from fleet.system import LabError, exit_code
from fleet.up import control_environment, inside


def main(words: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    place = here()
    match words:
        case ["up" | "down" as command]:
            task = {"up": _bring_up, "down": _take_down}[command]
            return exit_code(lambda: task(place))
        case ["ssh", node, *command]:
            return exit_code(
                lambda: _replace_process(place, ["ssh", "-F", str(place.state / "ssh_config"), node, *command])
            )
        case ["run", _, *_]:
            return exit_code(lambda: _replace_process(place, words[1:]))
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
    """Return a list of the nodes and of useful commands."""
    lines = [
        f"  {node.name:12} {', '.join(map(str, underlay(LAB, node))):38} {_task(node.name, node.site)}"
        for node in LAB.nodes
    ]
    return "\n".join([
        f"Nodes, all named in the zone {LAB.zone}:",
        *lines,
        "A shell on a node:              make fleet-ssh NODE=north-hub",
        'A command on the control host:  make fleet-run COMMAND="ansible all -m ansible.builtin.ping"',
        f"Its inventory and ssh_config:   {place.state}/",
        f"A command in its network:       {' '.join(inside(place, LAB.control))} COMMAND",
        "Remove the lab:                 make fleet-down",
    ])  # fmt: skip


def _task(name: str, site: str | None) -> str:
    if site:
        hub = LAB.hub_of(name)
        return f"agent, site {site}" + (f", behind {hub}" if hub else "")
    return {LAB.manager: "manager", LAB.resolver: "DNS, TSIG-signed updates"}[name]


def _replace_process(place: Place, words: Sequence[str]) -> None:
    """Replace this process with a command on the control host."""
    if not place.complete.exists():
        raise LabError("the lab is not up: run make fleet")
    os.chdir(place.checkout)
    command = [*inside(place, LAB.control), *words]
    os.execvpe(command[0], command, control_environment(place))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
