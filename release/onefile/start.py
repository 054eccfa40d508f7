"""Starts the agent or one of its helpers from the single file.

The file is a zip that Python imports from. Files that do not work inside a zip go through memory (onefile.memory), so
the agent unpacks nothing: no folder can be full, read-only, cleaned up or tampered with.
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
# The output of `uname -m` on the machines that this file is for. The build writes it.
MACHINE_FILE = "onefile/machine"


class WrongMachineError(Exception):
    """The file is for another kind of machine; the text names both."""


def start(arguments: list[str]) -> int:
    """Run the agent or one of its helpers with these arguments; return the exit code."""
    sys.path[0] = held_open(sys.path[0])
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


def held_open(path: str) -> str:
    """Open a file and return a path that leads to it until the process ends, even if an upgrade replaces the file."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    descriptor_path = f"/proc/self/fd/{file}"
    return descriptor_path if os.path.exists(descriptor_path) else path  # noqa: PTH110 - the helper avoids pathlib


def check_machine(built_for: str, machine: str, maxsize: int) -> None:
    """Raise WrongMachineError unless the machine is the right one and its Python, with this sys.maxsize, is 64-bit."""
    if machine != built_for:
        raise WrongMachineError(
            f"this file is for {built_for}, but this machine is {machine}: use agent-amd64 on x86_64, agent-arm64 on "
            "aarch64"
        )
    if maxsize < 2**32:
        raise WrongMachineError(f"{sys.executable} is a 32-bit Python: run this file with a 64-bit one")


def _run(module: str, arguments: list[str]) -> int:
    code: int = import_module(module).main(arguments)
    return code
