"""Brings a lab up and takes it down."""

from __future__ import annotations

import os
from collections.abc import Callable

from fleet.down import down
from fleet.place import Place
from fleet.plan import LAB
from fleet.prerequisites import skip_reason
from fleet.root import make_root
from fleet.system import LabError, groups, locked, members
from fleet.up import up


def bring_up(place: Place, say: Callable[[str], None], restart: bool = False) -> None:
    """Boot the lab, after removing the remains of an aborted run. If it is up already, keep it unless `restart` is set.

    Raises:
        LabError: The lab cannot run on this machine, or did not come up.
    """
    if reason := skip_reason():
        raise LabError(reason)
    with locked(place) as lock:
        if restart or not is_up(place):
            _boot(place, lock, say)
    say("the lab is up")


def _boot(place: Place, lock: int, say: Callable[[str], None]) -> None:
    try:
        down(place, lock)
        say("root file system (made only once, about half a minute)")
        make_root(place)
        up(LAB, place, lock, say)
    except KeyboardInterrupt:
        say("interrupted: removing the lab")
        down(place, lock)
        raise


def is_up(place: Place) -> bool:
    """Return whether the lab came up and all its nodes still run."""
    alive = {group.name for group in groups(place.prefix) if members(group.name)}
    return place.complete.exists() and alive >= {place.name(node.name) for node in LAB.nodes}


def take_down(place: Place) -> None:
    """Remove the lab or its remains.

    Raises:
        LabError: A part of the lab cannot be removed.
    """
    if os.geteuid() != 0:
        raise LabError("not root: removing the lab needs root")
    with locked(place) as lock:
        down(place, lock)
