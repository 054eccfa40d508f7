"""What the agent costs a node, beside other agents of Debian's: `make bench-agent`.

May live here: the order of the runs and the table. Needs root, for network namespaces of its own. It exits with an
error when something did not work, never because something was slow.
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

from agent_rivals import KINDS, Kind
from agent_world import SHAPES, Shape, namespace, surroundings, wait_for

ROOT = Path(__file__).resolve().parent.parent
DRIVER = Path(__file__).with_name("agent_driver.py")
# An hour of reports, each 30 seconds. Some come first, so that what is imported late does not count as a cycle.
CYCLES = 120
FIRST = 10
STARTS = 5
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """What one program costs: CPU and time per cycle, memory after the last one, time from start to the first."""

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
    """Measure all, or, inside of a namespace, one, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=CYCLES, help="an hour has 120")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--inside", nargs=2, metavar=("WHAT", "TUNNEL"), help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.inside:
        what, tunnel = flags.inside
        print(json.dumps(asdict(_inside(what, tunnel, cycles=flags.cycles))))
        return 0
    if os.geteuid() != 0:
        print("bench-agent makes network namespaces and needs root", file=sys.stderr)
        return 1
    costs = [_outside(shape.name, shape, flags.cycles) for shape in SHAPES]
    for kind in KINDS:
        if kind.path is None:
            print(f"{kind.name} is not installed: apt-get install --no-install-recommends {kind.name}")
        else:
            costs.append(_outside(kind.name, SHAPES[0], flags.cycles))
    print(table(costs))
    if flags.json:
        flags.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=2) + "\n")
    return 0


def table(costs: Sequence[Cost]) -> str:
    """Return the figures, and how often each rival's is the agent's on the same node, which stands first."""
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


def _outside(what: str, shape: Shape, cycles: int) -> Cost:
    tunnel = f"kb{secrets.token_hex(4)}"
    with namespace(shape, tunnel) as name:
        command = [sys.executable, __file__, "--inside", what, tunnel, "--cycles", str(cycles)]
        found = subprocess.check_output(["ip", "netns", "exec", name, *command])
    return Cost(**json.loads(found))


def _inside(what: str, tunnel: str, *, cycles: int) -> Cost:
    for shape in SHAPES:
        if shape.name == what:
            return _agent(shape, tunnel, min(cycles, shape.most_cycles))
    return _rival(next(kind for kind in KINDS if kind.name == what), cycles)


def _agent(shape: Shape, tunnel: str, cycles: int) -> Cost:
    with tempfile.TemporaryDirectory() as name, surroundings(Path(name), tunnel, shape.peers) as (manager, settings):
        environment = {"PATH": os.environ["PATH"], **settings, **shape.settings}

        def started(*command: str) -> subprocess.Popen[bytes]:
            with (Path(name) / "agent.log").open("ab") as log:
                return subprocess.Popen([sys.executable, *command], env=environment, stderr=log, cwd=name)

        def start_ms(*, cold: bool) -> float:
            if cold:
                forget([Path(sys.prefix), Path(sys.base_prefix), Path(sysconfig.get_path("stdlib")), ROOT])
            manager.came_at.clear()
            began = time.monotonic()
            process = started("-m", "kattila_agent")
            try:
                wait_for(lambda: manager.came_at, process)
            finally:
                _stop(process)
            return 1000 * (manager.came_at[0] - began)

        warm = statistics.median(start_ms(cold=False) for _ in range(STARTS))
        cold = statistics.median(start_ms(cold=True) for _ in range(3))
        manager.came_at.clear()
        process = started(str(DRIVER))
        try:
            wait_for(lambda: len(manager.came_at) >= FIRST, process)
            before, first = cpu_seconds(process.pid), len(manager.came_at)
            wait_for(lambda: len(manager.came_at) >= first + cycles, process)
            last = len(manager.came_at)
            cpu = cpu_seconds(process.pid) - before
            rss, private = memory(process.pid)
        finally:
            _stop(process)
        _check(manager.last, shape)
        cuts = json.loads(manager.last)["telemetry"]["cuts"]
        return Cost(
            name=shape.name,
            cpu_ms=1000 * cpu / (last - first),
            cycle_ms=1000 * (manager.came_at[last - 1] - manager.came_at[first - 1]) / (last - first),
            rss_mib=rss,
            private_mib=private,
            warm_ms=warm,
            cold_ms=cold,
            bytes=manager.size,
            cut="; ".join(f"{cut['kept']} of {cut['of']} {cut['what']} told" for cut in cuts),
        )


def _check(data: bytes, shape: Shape) -> None:
    """Raise RuntimeError unless the report tells what the node has: what is not read costs nothing."""
    telemetry = json.loads(data)["telemetry"]
    told = {cut["what"]: cut["of"] for cut in telemetry["cuts"]}.get("routes", len(telemetry["routes"]))
    peers = sum(len(interface["peers"]) for interface in telemetry["wireguard"])
    if telemetry["failures"] or told < shape.routes or peers != shape.peers or len(telemetry["interfaces"]) < 5:
        raise RuntimeError(f"the report does not tell the node: {telemetry['failures']}, {told} routes, {peers} peers")


def _rival(kind: Kind, cycles: int) -> Cost:
    program = kind.path
    if program is None:
        raise RuntimeError(f"{kind.name} is gone")

    def start_ms(*, cold: bool) -> float:
        if cold:
            forget([Path(program), Path(program).parents[1] / "lib/collectd"])
        with tempfile.TemporaryDirectory() as name:
            began = time.monotonic()
            rival = kind.start(program, Path(name))
            try:
                wait_for(lambda: _answers(rival.ask), rival.process)
                return 1000 * (time.monotonic() - began)
            finally:
                _stop(rival.process)

    warm = statistics.median(start_ms(cold=False) for _ in range(STARTS))
    cold = statistics.median(start_ms(cold=True) for _ in range(3))
    with tempfile.TemporaryDirectory() as name:
        rival = kind.start(program, Path(name))
        try:
            wait_for(lambda: _answers(rival.ask), rival.process)
            for _ in range(FIRST):
                rival.ask()
            before, began = cpu_seconds(rival.process.pid), time.monotonic()
            for _ in range(cycles):
                rival.ask()
            cpu, took = cpu_seconds(rival.process.pid) - before, time.monotonic() - began
            rss, private = memory(rival.process.pid)
        finally:
            _stop(rival.process)
    return Cost(kind.name, 1000 * cpu / cycles, 1000 * took / cycles, rss, private, warm, cold)


def _answers(ask: object) -> bool:
    try:
        ask()  # type: ignore[operator]
    except OSError:
        return False
    return True


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process with all its threads, to ten milliseconds (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory(pid: int) -> tuple[float, float]:
    """Return resident memory, and what of it no other process shares, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    return kib["Rss"] / 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024


def forget(places: Sequence[Path]) -> None:
    """Drop these files from the page cache, as far as nobody else has them mapped."""
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
