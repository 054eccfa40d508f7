"""Measures what the agent costs a node, compared with other agents from Debian: `make bench-agent`.

Needs root to create network namespaces. A non-zero exit code means that something failed, not that it was slow.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import build_agent
from agent_node import SHAPES, Shape, manager_and_helper, namespace, wait_for
from agent_rivals import KINDS, Kind, Rival
from wheels import MACHINES

DRIVER = Path(__file__).with_name("agent_driver.py")
# An hour of reports, one every 30 seconds. Warm-up cycles come first, so that late imports do not count.
CYCLES = 120
WARMUP_CYCLES = 10
STARTS = 5
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """The cost of one program: CPU and time per cycle, memory after the last cycle, time from start to the first."""

    name: str
    cpu_ms: float
    cycle_ms: float
    rss_mib: float
    private_mib: float
    warm_ms: float
    cold_ms: float
    bytes: int = 0
    cut: str = ""


def main() -> int:
    """Measure all programs, or one if started in a namespace, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=CYCLES, help="cycles to measure; an hour has 120")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--file", type=Path, help="measure this file instead of a new build")
    parser.add_argument("--inside", nargs=3, metavar=("NAME", "TUNNEL", "FILE"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.inside:
        name, tunnel, file = flags.inside
        print(json.dumps(asdict(_measure(name, tunnel, file, cycles=flags.cycles))))
        return 0
    if os.geteuid() != 0:
        print("not root: bench-agent needs root to create network namespaces", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        file = flags.file or _built(Path(folder))
        costs = [_measure_in_namespace(shape.name, shape, file, flags.cycles) for shape in SHAPES]
        for kind in KINDS:
            if kind.path is None:
                print(f"{kind.name} is not installed: run apt-get install --no-install-recommends {kind.name}")
            else:
                costs.append(_measure_in_namespace(kind.name, SHAPES[0], file, flags.cycles))
    print(table(costs))
    if flags.json:
        flags.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")
    return 0


def _built(folder: Path) -> Path:
    """Build the agent's single file for this machine."""
    (file,) = build_agent.build([arch for arch, machine in MACHINES.items() if machine == os.uname().machine], folder)
    return file


def table(costs: Sequence[Cost]) -> str:
    """Return the figures as a table, with the ratio of each rival to the agent on the same node, the first cost."""
    head = ("", "CPU ms/cycle", "ms/cycle", "RSS MiB", "private MiB", "warm start ms", "cold start ms", "report bytes")
    rows = [head, *(_row(cost) for cost in costs)]
    ours = costs[0]
    rows += [
        (f"{cost.name} / agent", *(f"{value:.2f}" for value in _ratios(cost, ours)), "")
        for cost in costs
        if cost.name in {kind.name for kind in KINDS}
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    notes = [f"{cost.name}: {cost.cut}" for cost in costs if cost.cut]
    return "\n".join([*lines, *notes])


def _row(cost: Cost) -> tuple[str, ...]:
    figures = (cost.cpu_ms, cost.cycle_ms, cost.rss_mib, cost.private_mib, cost.warm_ms, cost.cold_ms)
    return (cost.name, *(f"{figure:.1f}" for figure in figures), f"{cost.bytes:,}" if cost.bytes else "")


def _ratios(cost: Cost, ours: Cost) -> tuple[float, ...]:
    names = ("cpu_ms", "cycle_ms", "rss_mib", "private_mib", "warm_ms", "cold_ms")
    return tuple(getattr(cost, name) / getattr(ours, name) for name in names)


def _measure_in_namespace(name: str, shape: Shape, file: Path, cycles: int) -> Cost:
    tunnel = f"kb{secrets.token_hex(4)}"
    with namespace(shape, tunnel) as netns:
        command = [sys.executable, __file__, "--inside", name, tunnel, str(file), "--cycles", str(cycles)]
        output = subprocess.check_output(["ip", "netns", "exec", netns, *command])
    return Cost(**json.loads(output))


def _measure(name: str, tunnel: str, file: str, *, cycles: int) -> Cost:
    for shape in SHAPES:
        if shape.name == name:
            return _measure_agent(shape, tunnel, file, min(cycles, shape.max_cycles))
    return _measure_rival(next(kind for kind in KINDS if kind.name == name), cycles)


def _measure_agent(shape: Shape, tunnel: str, file: str, cycles: int) -> Cost:
    with (
        tempfile.TemporaryDirectory() as folder,
        manager_and_helper(Path(folder), tunnel, shape.peers) as (manager, settings),
    ):
        environment = {"PATH": os.environ["PATH"], **settings, **shape.settings}

        def start(*command: str) -> subprocess.Popen[bytes]:
            with (Path(folder) / "agent.log").open("ab") as log:
                return subprocess.Popen([sys.executable, *command], env=environment, stderr=log, cwd=folder)

        def start_ms(*, cold: bool) -> float:
            if cold:
                drop_from_cache([Path(sys.base_prefix), Path(sysconfig.get_path("stdlib")), Path(file).parent])
            manager.received_at.clear()
            began = time.monotonic()
            process = start(file)
            try:
                wait_for(lambda: manager.received_at, process)
            finally:
                _stop(process)
            return 1000 * (manager.received_at[0] - began)

        warm = statistics.median(start_ms(cold=False) for _ in range(STARTS))
        cold = statistics.median(start_ms(cold=True) for _ in range(3))
        manager.received_at.clear()
        process = start(str(DRIVER), file)
        try:
            wait_for(lambda: len(manager.received_at) >= WARMUP_CYCLES, process)
            before, first = cpu_seconds(process.pid), len(manager.received_at)
            wait_for(lambda: len(manager.received_at) >= first + cycles, process)
            last = len(manager.received_at)
            cpu = cpu_seconds(process.pid) - before
            rss, private = memory(process.pid)
        finally:
            _stop(process)
        _check(manager.last, shape)
        cuts = json.loads(manager.last)["telemetry"]["cuts"]
        return Cost(
            name=shape.name,
            cpu_ms=1000 * cpu / (last - first),
            cycle_ms=1000 * (manager.received_at[last - 1] - manager.received_at[first - 1]) / (last - first),
            rss_mib=rss,
            private_mib=private,
            warm_ms=warm,
            cold_ms=cold,
            bytes=manager.size,
            cut="; ".join(f"{cut['kept']} of {cut['of']} {cut['what']} reported" for cut in cuts),
        )


def _check(data: bytes, shape: Shape) -> None:
    """Raise RuntimeError unless the report describes the whole node; reading less would look cheaper."""
    telemetry = json.loads(data)["telemetry"]
    routes = {cut["what"]: cut["of"] for cut in telemetry["cuts"]}.get("routes", len(telemetry["routes"]))
    peers = sum(len(interface["peers"]) for interface in telemetry["wireguard"])
    if telemetry["failures"] or routes < shape.routes or peers != shape.peers or len(telemetry["interfaces"]) < 5:
        raise RuntimeError(f"the report is incomplete: {telemetry['failures']}, {routes} routes, {peers} peers")


def _measure_rival(kind: Kind, cycles: int) -> Cost:
    program = kind.path
    if program is None:
        raise RuntimeError(f"{kind.name} was removed during the run")

    def start_ms(*, cold: bool) -> float:
        if cold:
            drop_from_cache([Path(program), Path(program).parents[1] / "lib/collectd"])
        with tempfile.TemporaryDirectory() as name:
            began = time.monotonic()
            rival = kind.start(program, Path(name))
            try:
                wait_for(lambda: _is_ready(rival), rival.process)
                return 1000 * (time.monotonic() - began)
            finally:
                _stop(rival.process)

    warm = statistics.median(start_ms(cold=False) for _ in range(STARTS))
    cold = statistics.median(start_ms(cold=True) for _ in range(3))
    with tempfile.TemporaryDirectory() as name:
        rival = kind.start(program, Path(name))
        try:
            wait_for(lambda: _is_ready(rival), rival.process)
            for _ in range(WARMUP_CYCLES):
                rival.run_cycle()
            before, began = cpu_seconds(rival.process.pid), time.monotonic()
            for _ in range(cycles):
                rival.run_cycle()
            cpu, elapsed = cpu_seconds(rival.process.pid) - before, time.monotonic() - began
            rss, private = memory(rival.process.pid)
        finally:
            _stop(rival.process)
    return Cost(kind.name, 1000 * cpu / cycles, 1000 * elapsed / cycles, rss, private, warm, cold)


def _is_ready(rival: Rival) -> bool:
    try:
        rival.run_cycle()
    except OSError:
        return False
    return True


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process with all its threads, with a precision of 10 ms (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process, and its private part, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    return kib["Rss"] / 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024


def drop_from_cache(places: Sequence[Path]) -> None:
    """Drop files and folders from the page cache; files that a process has mapped stay in it."""
    for place in places:
        for path in [place] if place.is_file() else place.rglob("*"):
            if path.is_file() and path.suffix in ("", ".py", ".pyc", ".so"):
                file = os.open(path, os.O_RDONLY)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(file)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
