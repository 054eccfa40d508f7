"""The machine itself: name, operating system, kernel, uptime, load, processors, memory.

/proc may be missing in part (`subset=pid`), or come from a container's file system that returns impossible numbers.
Only the values that cannot be read are unknown. sysinfo(2) needs no /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kattila_agent import __version__
from kattila_agent.collectors.limits import Bounded
from kattila_protocol.bounds import MAX_LINE
from kattila_protocol.canonical import MAX_INTEGER
from kattila_protocol.names import is_id
from kattila_protocol.report import System

_Value = TypeVar("_Value")

_PROC = Path("/proc")
_UPTIME = re.compile(r"(-?[0-9]{1,20})(?:\.[0-9]*)?(?:\s.*)?", re.DOTALL)
# /proc/uptime is read before the kernel's answer, and both are rounded.
_ROUNDING_SECONDS = 2
# Far above any number of processes (PID_MAX_LIMIT) and of processors (CONFIG_NR_CPUS).
_MAX_LOAD = 1e9
_MAX_CPUS = 2**20
# linux/kernel.h: a load average has this many fractional bits (SI_LOAD_SHIFT).
_LOAD_SHIFT = 16


class _Sysinfo(ctypes.Structure):
    """The beginning of struct sysinfo (linux/sysinfo.h), and room for the padding."""

    _fields_ = (
        ("uptime", ctypes.c_long),
        ("loads", ctypes.c_ulong * 3),
        ("totalram", ctypes.c_ulong),
        ("others", ctypes.c_ulong * 5),
        ("procs", ctypes.c_ushort),
        ("pad", ctypes.c_ushort),
        ("high", ctypes.c_ulong * 2),
        ("mem_unit", ctypes.c_uint),
        ("rest", ctypes.c_byte * 64),
    )


@dataclass(frozen=True, slots=True)
class KernelReadings:
    """The answer of sysinfo(2): seconds since boot, load averages, and bytes of memory."""

    uptime: int
    load: tuple[float, ...]
    memory_total: int


@dataclass(frozen=True, slots=True)
class SystemReadings:
    """What the system returned, None where it returned nothing; `errors` says why, by source.

    `uptime` is the text of /proc/uptime, memory is in bytes.
    """

    uname: os.uname_result
    os_release: Mapping[str, str]
    uptime: str | None
    load: tuple[float, ...] | None
    cpus: int | None
    memory: tuple[int, int] | None
    kernel: KernelReadings | None = None
    errors: Mapping[str, str] = field(default_factory=dict)


def read(proc: Path = _PROC) -> SystemReadings:
    """Read /proc and the answers of the C library and the kernel; a source that fails leaves only its values out."""
    errors: dict[str, str] = {}

    def attempt(source: str, read_source: Callable[[], _Value]) -> _Value | None:
        # psutil fails in many ways if a file of /proc is not as it expects.
        try:
            return read_source()
        except Exception as error:
            errors[source] = f"{type(error).__name__}: {error}"
            return None

    import psutil  # noqa: PLC0415 - takes 4 MB, which commands that do not measure can save

    os_release: Mapping[str, str] = {}
    # A system without the file, or with one that is not UTF-8, still has its other facts.
    with contextlib.suppress(OSError, ValueError):
        os_release = platform.freedesktop_os_release()
    return SystemReadings(
        uname=os.uname(),
        os_release=os_release,
        uptime=attempt("uptime", lambda: (proc / "uptime").read_text("ascii")),
        load=attempt("load", os.getloadavg),
        cpus=attempt("cpus", lambda: psutil.cpu_count(logical=True)),
        memory=attempt("memory", lambda: psutil.virtual_memory()[:2]),
        kernel=attempt("sysinfo", _read_kernel),
        errors=errors,
    )


def parse(readings: SystemReadings, labels: Mapping[str, str]) -> Bounded[Any]:
    """Return a System, `load` in hundredths; the failures say why some of its values are unknown."""
    total, available = readings.memory or (None, None)
    total = _in_range(total, 1, MAX_INTEGER)
    if total is None and readings.kernel:
        # The kernel's own answer has only the total.
        total = _in_range(readings.kernel.memory_total, 1, MAX_INTEGER)
    names = readings.os_release
    found: Any = System(
        hostname=readings.uname.nodename,
        os=(names.get("PRETTY_NAME") or names.get("NAME") or readings.uname.sysname)[:MAX_LINE],
        kernel=readings.uname.release,
        machine=readings.uname.machine,
        uptime_seconds=_uptime(readings),
        load=_load(readings),
        cpus=_in_range(readings.cpus, 1, _MAX_CPUS),
        memory_total=total,
        memory_available=_in_range(available, 0, total or MAX_INTEGER),
        agent_version=__version__,
        labels=dict(labels),
    )
    return Bounded(found, failures=tuple(_unknown(found, readings)))


def read_boot_id(proc: Path = _PROC) -> str:
    """Return the kernel's id of this boot (random(4)); raises OSError if it cannot be read."""
    path = proc / "sys/kernel/random/boot_id"
    boot_id = path.read_text("ascii", "replace").strip()
    if not is_id(boot_id):
        raise OSError(f"{path} contains no UUID: is /proc mounted?")
    return boot_id


def _read_kernel() -> KernelReadings:
    """Return the kernel's own answer (sysinfo(2)); raises OSError."""
    found = _Sysinfo()
    if ctypes.CDLL(None, use_errno=True).sysinfo(ctypes.byref(found)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    load = tuple(average / (1 << _LOAD_SHIFT) for average in found.loads)
    return KernelReadings(int(found.uptime), load, int(found.totalram) * (int(found.mem_unit) or 1))


def _uptime(readings: SystemReadings) -> int | None:
    """Return the uptime of /proc, which may be a container's, unless it is longer than the kernel's."""
    kernel = _in_range(readings.kernel.uptime, 0, MAX_INTEGER) if readings.kernel else None
    match = _UPTIME.fullmatch(readings.uptime or "")
    most = MAX_INTEGER if kernel is None else kernel + _ROUNDING_SECONDS
    # "-0.50" is negative, too.
    if match is None or match[1].startswith("-"):
        return kernel
    found = _in_range(int(match[1]), 0, most)
    return kernel if found is None else found


def _load(readings: SystemReadings) -> tuple[int, int, int] | None:
    for averages in (readings.load, readings.kernel and readings.kernel.load):
        # NaN is not in the range either.
        if averages and all(0 <= average <= _MAX_LOAD for average in averages):
            one, five, fifteen = (round(average * 100) for average in averages)
            return one, five, fifteen
    return None


def _in_range(value: int | None, least: int, most: int) -> int | None:
    return value if value is not None and least <= value <= most else None


def _unknown(found: System, readings: SystemReadings) -> list[str]:
    """Return a reason for each value that is unknown."""
    sources: Mapping[str, tuple[str, object]] = {
        "uptime_seconds": ("uptime", readings.uptime),
        "load": ("load", readings.load),
        "cpus": ("cpus", readings.cpus),
        "memory_total": ("memory", readings.memory),
        "memory_available": ("memory", readings.memory),
    }
    return [
        f"{name} is unknown: {readings.errors.get(source) or f'{value!r:.60} is out of range'}"
        for name, (source, value) in sources.items()
        if getattr(found, name) is None
    ]
