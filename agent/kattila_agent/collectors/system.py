"""The machine itself: name, operating system, kernel, uptime, load, processors, memory."""

from __future__ import annotations

import contextlib
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
class SystemReadings:
    """What the system returned: `uptime` is the text of /proc/uptime, memory is in bytes."""

    uname: os.uname_result
    os_release: Mapping[str, str]
    uptime: str
    load: tuple[float, float, float]
    cpus: int | None
    memory_total: int
    memory_available: int


def read(proc: Path = _PROC) -> SystemReadings:
    """Read /proc and the C library's answers; raises OSError if /proc is not mounted."""
    import psutil  # noqa: PLC0415 - takes 4 MB, which commands that do not measure can save

    memory = psutil.virtual_memory()
    os_release: Mapping[str, str] = {}
    # A system without the file, or with one that is not UTF-8, still has its other facts.
    with contextlib.suppress(OSError, ValueError):
        os_release = platform.freedesktop_os_release()
    return SystemReadings(
        uname=os.uname(),
        os_release=os_release,
        uptime=(proc / "uptime").read_text("ascii"),
        load=os.getloadavg(),
        cpus=psutil.cpu_count(logical=True),
        memory_total=memory.total,
        memory_available=memory.available,
    )


def parse(readings: SystemReadings, labels: Mapping[str, str]) -> System:
    """Return the readings as reported, `load` in hundredths; raises ValueError if /proc/uptime is malformed."""
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
    """Return the kernel's id of this boot (random(4)); raises OSError if it cannot be read."""
    path = proc / "sys/kernel/random/boot_id"
    boot_id = path.read_text("ascii", "replace").strip()
    if not is_id(boot_id):
        raise OSError(f"{path} contains no UUID: is /proc mounted?")
    return boot_id
