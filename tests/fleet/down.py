"""Removes a lab or its remains. Everything is found by name, so no record of what was created is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

from fleet.place import Place
from fleet.system import groups, kill_all, members, namespaces, remove_groups, run


def down(place: Place, lock: int) -> None:
    """Remove the lab except the root file system; does nothing if there is no lab.

    Raises:
        LabError: A part of the lab cannot be removed.
    """
    kill_all(lambda: members(place.prefix))
    for name in namespaces(place.prefix):
        run(["ip", "netns", "delete", name], lock)
    for folder in resolvers(place):
        shutil.rmtree(folder)
    remove_groups(place.prefix)
    if place.state.exists():
        shutil.rmtree(place.state)


def resolvers(place: Place) -> list[Path]:
    """Return the folders with the resolv.conf files for `ip netns exec`."""
    return sorted(Path("/etc/netns").glob(f"{place.prefix}*"))


def traces(place: Place) -> list[str]:
    """Return everything on this machine that belongs to the lab; empty after `down`."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [
        *(f"process {pid}" for pid in sorted(members(place.prefix))),
        *(f"namespace {name}" for name in namespaces(place.prefix)),
        *(f"control group {path}" for path in groups(place.prefix)),
        *(f"folder {path}" for path in [*resolvers(place), place.state] if path.exists()),
        *(f"mount {line.split()[4]}" for line in mounts if f"{place.state}/" in line or place.prefix in line),
    ]
