"""The machine itself: name, operating system, kernel, uptime, load, processors, memory.

May live here: reading /proc and the C library's answers, and shaping them.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kattila_agent import __version__
from kattila_protocol.names import is_id
from kattila_protocol.report import System

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Readings:
    """What the system says, unshaped: `uptime` is the text of /proc/uptime, memory is in bytes."""

    uname: os.uname_result
    os_release: Mapping[str, str]
    uptime: str
    load: tuple[float, float, float]
    cpus: int | None
    memory_total: int
    memory_available: int


def read(proc: Path = _PROC) -> Readings:
    """Ask the system; raises OSError where /proc is not what Linux mounts there."""
    import psutil  # noqa: PLC0415 - 4 MB that commands which measure nothing are spared

    memory = psutil.virtual_memory()
    return Readings(
        uname=os.uname(),
        os_release=_os_release(),
        uptime=(proc / "uptime").read_text("ascii"),
        load=os.getloadavg(),
        cpus=psutil.cpu_count(logical=True),
        memory_total=memory.total,
        memory_available=memory.available,
    )


def parse(readings: Readings, labels: Mapping[str, str]) -> System:
    """Shape what was read; `load` becomes hundredths. Raises ValueError if /proc/uptime holds something else."""
    one, five, fifteen = (round(load * 100) for load in readings.load)
    return System(
        hostname=readings.uname.nodename,
        os=readings.os_release.get("PRETTY_NAME") or readings.os_release.get("NAME") or readings.uname.sysname,
        kernel=readings.uname.release,
        machine=readings.uname.machine,
        uptime_seconds=int(readings.uptime.partition(".")[0]),
        load=(one, five, fifteen),
        cpus=readings.cpus or 1,
        memory_total=readings.memory_total,
        memory_available=readings.memory_available,
        agent_version=__version__,
        labels=dict(labels),
    )


def read_boot_id(proc: Path = _PROC) -> str:
    """Return the kernel's id of this boot (random(4)); raises OSError."""
    path = proc / "sys/kernel/random/boot_id"
    boot_id = path.read_text("ascii", "replace").strip()
    if not is_id(boot_id):
        raise OSError(f"{path} holds no UUID: is /proc mounted?")
    return boot_id


def _os_release() -> Mapping[str, str]:
    try:
        return platform.freedesktop_os_release()
    except (OSError, ValueError):
        # A system without the file, or with one that is not UTF-8, is still worth its other facts.
        return {}
