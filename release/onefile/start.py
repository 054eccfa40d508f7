"""How the one file becomes the running agent.

May live here: which modules are taken from where. Not here: what the agent's flags mean (kattila_agent.__main__).

The file is a zip, from which Python imports by itself; what cannot be used from inside a zip goes through memory
(onefile.memory). So the file reads and writes no folder of its own: there is nothing to be full, read-only, cleaned up
or put there by somebody else.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from zipimport import zipimporter

from onefile import libraries

HELPERS = {
    "-wireguard-helper": "kattila_agent.helpers.wireguard_helper",
    "-clock-helper": "kattila_agent.helpers.clock_helper",
}
# What `uname -m` says where the file runs; the build writes it.
MACHINE_FILE = "onefile/machine"


class WrongMachineError(Exception):
    """The file is for another kind of machine; the text says which."""


def start(arguments: list[str]) -> int:
    """Run the agent, or one of its helpers, with these arguments; return the exit code."""
    sys.path[0] = held(sys.path[0])
    archive = zipimporter(sys.path[0])
    try:
        check_machine(archive.get_data(MACHINE_FILE).decode(), os.uname().machine, sys.maxsize)
    except WrongMachineError as error:
        sys.stderr.write(f"kattila-agent: {error}\n")
        return 1
    if arguments and (helper := HELPERS.get(arguments[0].replace("--", "-", 1))):
        return _run(helper, arguments[1:])
    libraries.load_from(archive)
    return _run("kattila_agent.__main__", arguments)


def held(path: str) -> str:
    """Open a file and return a path that leads to it until the process ends, whatever an upgrade puts in its place."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    by_number = f"/proc/self/fd/{file}"
    return by_number if os.path.exists(by_number) else path  # noqa: PTH110 - the helper starts without pathlib


def check_machine(made_for: str, machine: str, largest: int) -> None:
    """Raise WrongMachineError unless this is the machine, with a 64-bit Python; `largest` is its sys.maxsize."""
    if machine != made_for:
        raise WrongMachineError(
            f"this file is for {made_for}, and this machine is {machine}: agent-amd64 is for x86_64, agent-arm64 for "
            "aarch64"
        )
    if largest < 2**32:
        raise WrongMachineError(f"{sys.executable} is a 32-bit Python: this file needs one of 64 bits")


def _run(module: str, arguments: list[str]) -> int:
    code: int = import_module(module).main(arguments)
    return code
