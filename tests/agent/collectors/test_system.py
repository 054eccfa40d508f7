"""The machine where /proc is missing in part, or returns impossible numbers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kattila_agent.collectors import system
from kattila_agent.collectors.limits import Bounded
from kattila_agent.config import default_limits
from kattila_agent.sampling import fitting
from kattila_agent.sampling.collect import COLLECTORS, Collector, Inputs, measure
from kattila_manager.store.decoding import decode
from kattila_protocol import canonical
from kattila_protocol.names import is_id
from kattila_protocol.report import (
    Clock,
    Cut,
    Interface,
    Neighbour,
    Report,
    Route,
    Telemetry,
    WireguardPeer,
)
from protocol.samples import BOOT, REPORT
from support.agent_folder import PSK, settings
from support.agent_process import AGENT, environment, running_daemon
from support.knot import Knot
from support.manager_stand_in import running_stand_in
from support.runtime import FIXED

# Replaces a file of /proc by another file, and /proc by one with processes only.
FAKED = 'mount --bind "$1" "/proc/$2" && shift 2 && exec "$@"'
SUBSET = 'mount -t proc -o subset=pid none /proc && exec "$@"'
KIB = 1024
MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
LINK = Interface(1, "eth0", None, (), "UP", 1500, None, ())
ROUTE = Route("192.0.2.0/24", None, None, None, 1, "static", "unicast")
PEER = WireguardPeer("key", None, (), 0, 0, 0, 0, False)


def sysinfo(script: str, *words: str, boot_id: str | None = BOOT) -> dict[str, Any]:
    """Return what `-sysinfo` prints in a mount namespace that this script prepares."""
    if os.geteuid() != 0:
        pytest.skip("a mount namespace requires root")
    command = ("unshare", "--mount", "sh", "-ec", script, "sh", *words, *AGENT, "-sysinfo")
    given = environment() if boot_id is None else environment(KATTILA_BOOT_ID=boot_id)
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=given)
    if done.returncode and "mount:" in done.stderr:
        pytest.skip(f"cannot mount here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def with_file(tmp_path: Path, name: str, content: bytes) -> dict[str, Any]:
    """Return the telemetry of a machine where /proc/NAME has this content."""
    fake = tmp_path / name
    fake.write_bytes(content)
    return sysinfo(FAKED, str(fake), name)


def accepted(telemetry: Any) -> None:
    """Check that the manager decodes a report with this telemetry, with what it must contain of the machine."""
    report = json.loads(canonical.encode(replace(REPORT, telemetry=Telemetry(None))))
    report["telemetry"]["system"] = telemetry["system"]
    report["telemetry"]["failures"] = telemetry["failures"]
    machine = decode(canonical.encode(report)).telemetry.system
    assert machine is not None
    assert machine.hostname == os.uname().nodename
    assert machine.agent_version
    assert machine.kernel == os.uname().release


@pytest.mark.parametrize(
    "content",
    [
        b"18446744073709551594.00 18446744073709551000.00\n",
        b"-5.00 1.00\n",
        b"-0.50 1.00\n",
        b"9223372036854775808.00 0.00\n",
        b"9223372036854775807.99 0.00\n",
        b"99999999999.00 0.00\n",
        b"1" * 60,
        b"nan inf\n",
        b"",
        b"\n",
        b"\xff 1\n",
        "\u0663.00 1".encode(),
    ],
    ids=str,
)
def test_an_impossible_uptime_is_replaced_by_the_kernels(tmp_path: Path, content: bytes) -> None:
    found = with_file(tmp_path, "uptime", content)
    assert abs(found["system"]["uptime_seconds"] - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60
    assert found["failures"] == []
    accepted(found)


def test_the_uptime_of_a_container_is_reported(tmp_path: Path) -> None:
    assert with_file(tmp_path, "uptime", b"17.93 3.10\n")["system"]["uptime_seconds"] == 17


@pytest.mark.parametrize(
    "content",
    [
        b"18446744073709551594.00 0.00 0.00 1/1 1\n",
        b"0.00 -1.00 0.00 1/1 1\n",
        b"nan inf 0.00 1/1 1\n",
        b"1e300 0.00 0.00 1/1 1\n",
        b"",
        b"?\n",
    ],
    ids=str,
)
def test_impossible_load_averages_are_replaced_by_the_kernels(tmp_path: Path, content: bytes) -> None:
    found = with_file(tmp_path, "loadavg", content)
    real = os.getloadavg()
    for reported, average in zip(found["system"]["load"], real, strict=True):
        assert 0 <= reported <= 100 * average + 2000
    accepted(found)


@pytest.mark.parametrize(
    ("total", "available", "expected_total", "expected_available"),
    [
        ("4096 kB", "3072 kB", 4096 * KIB, 3072 * KIB),
        ("18446744073709551594 kB", "3072 kB", None, 3072 * KIB),
        ("9007199254740992 kB", "3072 kB", None, 3072 * KIB),
        ("-8 kB", "3072 kB", None, None),
        ("0 kB", "0 kB", None, None),
        ("many kB", "3072 kB", None, None),
        ("4096 kB", "", None, None),
        ("\xff", "3072 kB", None, None),
    ],
)
def test_impossible_memory(
    tmp_path: Path, total: str, available: str, expected_total: int | None, expected_available: int | None
) -> None:
    values = {"MemTotal": total, "MemAvailable": available, "MemFree": "18446744073709551594 kB"}
    lines = (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())
    content = "".join(f"{name}: {values.get(name, value)}\n" for name, _, value in lines)
    found = with_file(tmp_path, "meminfo", content.encode("latin-1"))
    assert found["system"]["memory_total"] == (expected_total or MEMORY)
    assert found["system"]["memory_available"] == expected_available
    reasons = [each["reason"] for each in found["failures"]]
    assert [reason.partition(":")[0] for reason in reasons] == (
        ["memory_available is unknown"] if expected_available is None else []
    )
    accepted(found)


@pytest.mark.parametrize("content", [b"", b"\xff\n", b"MemTotal\n", b"0" * 5000])
def test_a_meminfo_without_any_memory(tmp_path: Path, content: bytes) -> None:
    found = with_file(tmp_path, "meminfo", content)
    assert (found["system"]["memory_total"], found["system"]["memory_available"]) == (MEMORY, None)
    accepted(found)


def test_where_proc_has_only_processes_the_rest_is_known() -> None:
    found = sysinfo(SUBSET)
    machine = found["system"]
    assert machine["memory_available"] is None
    assert machine["memory_total"] == MEMORY
    assert machine["cpus"] == os.cpu_count()
    assert len(machine["load"]) == 3
    assert abs(machine["uptime_seconds"] - time.clock_gettime(time.CLOCK_BOOTTIME)) < 60
    (failure,) = [each for each in found["failures"] if each["collector"] == "system"]
    assert failure["reason"].startswith("memory_available is unknown: FileNotFoundError")
    assert found["interfaces"]
    accepted(found)


def test_where_no_boot_id_can_be_read_an_agent_reports_all_the_same(knot: Knot, tmp_path: Path) -> None:
    program = ("unshare", "--mount", "sh", "-ec", SUBSET, "sh", *AGENT)
    with (
        running_stand_in(PSK) as manager,
        running_daemon(tmp_path, program=program, **settings(knot, manager.url, PSK)),
    ):
        first, second = (report.members["boot_id"] for report in manager.wait_for_reports(2)[:2])
    assert is_id(first)
    assert first == second != Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_command_works_where_no_boot_id_can_be_read() -> None:
    assert sysinfo(SUBSET, boot_id=None)["interfaces"]


def test_what_nobody_can_read_is_unknown_and_nothing_else() -> None:
    nothing = system.SystemReadings(
        uname=os.uname(), os_release={}, uptime=None, load=None, cpus=None, memory=None, errors={"load": "OSError: no"}
    )
    parsed = system.parse(nothing, {"site": "north"})
    found: Any = parsed.items
    failures = parsed.failures
    assert (found.uptime_seconds, found.load, found.cpus) == (None, None, None)
    assert (found.memory_total, found.memory_available) == (None, None)
    assert (found.hostname, found.labels) == (os.uname().nodename, {"site": "north"})
    assert len(failures) == 5
    assert "load is unknown: OSError: no" in failures
    assert decode(canonical.encode(replace(REPORT, telemetry=Telemetry(found)))).telemetry.system == found


@pytest.mark.parametrize(
    ("member", "value", "kept"),
    [
        ("neighbours", (Neighbour("192.0.2.1", None, "eth0", "STALE"),) * 2, 2),
        ("interfaces", (LINK, replace(LINK, mtu=2**63), replace(LINK, tx_bytes=-(2**63))), 1),
        ("routes", (ROUTE, ROUTE._replace(metric=2**64 - 1)), 1),
        ("clock", Clock(True, 2**63, 5), None),
        ("clock", Clock(True, 4, 5, -(2**64)), None),
        ("clock", Clock(True, 4, 2**63 - 1), 1),
        (
            "neighbours",
            (Neighbour("192.0.2.1", None, "x" * 61, "STALE"), Neighbour("192.0.2.1", None, "x", "STALE")),
            1,
        ),
    ],
)
def test_a_value_out_of_bounds_costs_its_entry_only(member: str, value: Any, kept: int | None) -> None:
    cuts = (Cut(member, 9, 10),)
    faulty = Collector("faulty", member, lambda *_: Bounded(value, cuts))
    found = measure(Inputs({}, default_limits(), FIXED), (faulty, COLLECTORS[0])).telemetry
    encoded = fitting.encode(found, {})
    report = replace(REPORT, telemetry=found)
    assert isinstance(decode(canonical.encode(report)), Report)
    canonical.parse_object(encoded)
    reported = getattr(found, member)
    if isinstance(value, tuple):
        assert len(reported) == kept
        complete = kept == len(value)
    else:
        complete = kept is not None
        assert reported == (value if complete else None)
    assert [each.collector for each in found.failures] == ([] if complete else ["faulty"])
    assert found.system is not None
