"""Measures the reports per second of the manager and of the baseline in one run: `make bench-ingest`.

bench/README.md explains the output.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from disk import filesystem, fsync_ms
from kattila_protocol import envelope
from kattila_protocol.ring import Ring
from reports import SHAPES, bodies
from requests_file import Requests, write_requests
from runs import Load, Run, measure
from servers import Server, ServerError, baseline, free_port, manager
from storage import bytes_per_report
from table import FIXED_RATE, FULL_SPEED, show

PSK = b"a psk that protects nothing but a bench"
HEAD = (
    "POST /status/updates HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
)
SEED = 5086
# New requests have timestamps up to four minutes old. The servers refuse them after ten.
FRESH_SECONDS = 240.0
# Ignored by git. In the checkout, because a commit must go to a real disk.
RESULTS = Path(__file__).resolve().parent / "results"


class Bench:
    """The runs. Each begins with fresh requests, an empty folder and a new server."""

    def __init__(self, settings: argparse.Namespace, folder: Path) -> None:
        """Keep the settings and the folder for all files; creates nothing yet."""
        self._settings = settings
        self._folder = folder
        self._requests = folder / "requests"
        self._made_at = 0.0
        self._runs = 0
        self.fsyncs_ms: list[float] = []

    def rounds(self, names: list[str]) -> Iterator[Run]:
        """Run the servers in turn at full speed, for all rounds."""
        for number in range(1, self._settings.rounds + 1):
            for name in names:
                yield self._run(name, f"round {number} of {self._settings.rounds}", rate=0.0)

    def fixed_rate(self, names: list[str]) -> Iterator[Run]:
        """Run each server once at the fixed rate."""
        for name in names if self._settings.rate else ():
            yield self._run(name, f"at {self._settings.rate:,.0f}/s", self._settings.rate)

    def data_bytes(self) -> int:
        """Return the median size of DATA."""
        requests = Requests(self._requests)
        return round(statistics.median(len(envelope.parse(requests.body(n)).data) for n in range(0, len(requests), 97)))

    def _run(self, name: str, title: str, rate: float) -> Run:
        self._make_requests()
        self.fsyncs_ms.append(fsync_ms(self._folder))
        settings = self._settings
        load = Load(self._requests, settings.seconds, settings.connections, self._agents(), rate)
        print(f"{title}: {name} …", end=" ", flush=True)
        ring = Ring().with_current(PSK, 0) if name == "manager" else None
        run = measure(self._server(name), load, ring)
        print(f"{run.per_second:,.0f} reports/s, p99 {run.p99_ms:,.1f} ms", *run.problems, sep="\n  ! ", flush=True)
        return run

    def _agents(self) -> int:
        return 0 if self._settings.roaming else int(self._settings.agents)

    def _server(self, name: str) -> Server:
        self._runs += 1
        folder = self._folder / f"{self._runs}-{name}"
        folder.mkdir()
        if name == "baseline":
            return baseline(folder, free_port(), PSK)
        return manager(folder, free_port(), PSK, self._settings.workers, now=int(time.time() * 1000))

    def _make_requests(self) -> None:
        if time.monotonic() - self._made_at < FRESH_SECONDS and self._made_at:
            return
        settings = self._settings
        samples = max(1, settings.reports // settings.agents)
        print(f"Making {settings.agents * samples:,} reports …", end=" ", flush=True)
        began_at, now = time.monotonic(), int(time.time() * 1000)
        key, chance = Ring().with_current(PSK, now).current, random.Random(SEED)
        reports = bodies(SHAPES[settings.shape], settings.agents, samples, key, now, chance)
        write_requests(self._requests, HEAD, reports)
        self._made_at = time.monotonic()
        print(f"{self._made_at - began_at:.0f} s", flush=True)


def settings_from(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Measure how fast the manager takes reports, compared with the baseline."
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each server at full speed (default: 3)")
    parser.add_argument("--seconds", type=float, default=8.0, help="maximum duration of a run (default: 8)")
    parser.add_argument("--connections", type=int, default=64, help="keep-alive connections (default: 64)")
    parser.add_argument("--agents", type=int, default=1000, help="number of agents (default: 1000)")
    parser.add_argument("--reports", type=int, default=80_000, help="maximum reports of a run (default: 80000)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the manager (default: 2)")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="full", help="size of a node (default: full)")
    parser.add_argument(
        "--rate", type=float, default=300.0, help="reports/s of the last runs, 0 for none (default: 300)"
    )
    parser.add_argument("--roaming", action="store_true", help="send each report over any free connection")
    parser.add_argument("--only", choices=["baseline", "manager"], help="run only this server")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to this file")
    return parser.parse_args(arguments)


def main() -> int:
    """Run everything and print the tables; return 1 if something failed, but not because it was slow."""
    settings = settings_from(sys.argv[1:])
    names = [settings.only] if settings.only else ["baseline", "manager"]
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=RESULTS) as folder:
        bench = Bench(settings, Path(folder))
        try:
            full_speed, fixed_rate = list(bench.rounds(names)), list(bench.fixed_rate(names))
        except ServerError as error:
            print(f"\n{error}", file=sys.stderr)
            return 1
        facts = machine_facts(bench, settings)
        facts["stored"] = f"{_stored_bytes(settings, Path(folder)):.0f} bytes on disk per report in the long run"
    print("", *(f"{name}: {value}" for name, value in facts.items()), "", sep="\n")
    print(show("Full speed", full_speed, FULL_SPEED))
    if fixed_rate:
        print("", show(f"At {settings.rate:,.0f} reports/s", fixed_rate, FIXED_RATE), sep="\n")
    if settings.json:
        runs = [asdict(run) for run in full_speed + fixed_rate]
        settings.json.write_text(json.dumps({"facts": facts, "runs": runs}, indent=1))
    return int(any(run.problems for run in full_speed + fixed_rate))


def _stored_bytes(settings: argparse.Namespace, folder: Path) -> float:
    print("Storing four hours of reports from fifty agents …", flush=True)
    now = int(time.time() * 1000)
    return bytes_per_report(folder, SHAPES[settings.shape], Ring().with_current(PSK, now), now, random.Random(SEED))


def machine_facts(bench: Bench, settings: argparse.Namespace) -> dict[str, str]:
    """Return the facts that the figures depend on."""
    disk = filesystem(RESULTS)
    if disk in ("tmpfs", "ramfs"):
        disk += " (IN MEMORY: commits cost nothing, so the figures do not apply to a disk)"
    shape = SHAPES[settings.shape]
    samples = max(1, settings.reports // settings.agents)
    return {
        "machine": f"{os.cpu_count()} cores, shared by server and client; {os.uname().machine}, {os.uname().release}",
        "disk": f"{disk}, write and fsync of 4 KiB {statistics.median(bench.fsyncs_ms):.2f} ms "
        f"({min(bench.fsyncs_ms):.2f}-{max(bench.fsyncs_ms):.2f})",
        "load": f"{settings.rounds} rounds of {settings.seconds:g} s, {settings.connections} connections, "
        f"{settings.agents:,} agents with up to {samples} samples each",
        "report": f"{shape.interfaces} interfaces, {shape.routes} routes, {shape.peers} WireGuard peers of which "
        f"{shape.busy_peers} busy: {bench.data_bytes():,} bytes of DATA",
        "manager": f"{settings.workers} workers",
    }


if __name__ == "__main__":
    sys.exit(main())
