"""Measures one run: starts a server, loads it, stops it, and checks its answers and its database."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from disk import reports_and_bytes
from kattila_protocol import canonical, envelope, verdict
from kattila_protocol.errors import Refusal
from kattila_protocol.ring import Ring
from requests_file import Requests
from servers import Running, Server, running

ACCEPTED = "200 accepted"
# One answer in this many is kept, and its signature is verified.
KEEP_EVERY = 100
_CLIENT = Path(__file__).with_name("load.py")


@dataclass(frozen=True, slots=True)
class Load:
    """The load for a server: load.Plan without the port."""

    requests: Path
    seconds: float
    connections: int
    agents: int
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """The figures of one run.

    `server_cpu_us` and `client_cpu_us` are per report, `cpu_seconds` per process of the server, `bytes_on_disk` per
    stored report. `others_cores` is the number of cores that other programs kept busy. `problems` is empty unless
    something failed.
    """

    server: str
    rate: float
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    server_cpu_us: float
    client_cpu_us: float
    rss_mib: float
    bytes_on_disk: float
    stored: int
    others_cores: float
    cpu_seconds: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def measure(server: Server, load: Load, ring: Ring | None) -> Run:
    """Measure one run; with a `ring`, also verify the server's signed verdicts."""
    with running(server) as started:
        answers, cpu_seconds, others_cores = _run_load(started, load)
    stored, size = reports_and_bytes(server.database)
    count = max(1, answers["answers"])
    return Run(
        server=server.name,
        rate=load.rate,
        **{name: answers[name] for name in ("per_second", "p50_ms", "p99_ms", "max_ms")},
        server_cpu_us=1e6 * sum(cpu_seconds) / count,
        client_cpu_us=1e6 * answers["cpu_seconds"] / count,
        rss_mib=started.peak_rss_bytes / 2**20,
        bytes_on_disk=size / max(1, stored),
        stored=stored,
        others_cores=others_cores,
        cpu_seconds=cpu_seconds,
        problems=_problems(answers, stored) + _wrong_verdicts(answers, load, ring),
    )


def _run_load(started: Running, load: Load) -> tuple[dict[str, Any], list[float], float]:
    """Return the client's result, the CPU seconds of each server process, and the cores that others kept busy."""
    result = started.server.folder / "result.json"
    before, busy_before, started_at = started.cpu_seconds(), _busy_seconds(), time.monotonic()
    client = subprocess.Popen(_client_command(started.server.port, load, result))
    while client.poll() is None:
        started.note_memory()
        time.sleep(0.25)
    after, busy_after, elapsed = started.cpu_seconds(), _busy_seconds(), time.monotonic() - started_at
    if client.returncode:
        raise RuntimeError(f"the client failed with exit status {client.returncode}: see its output above")
    answers: dict[str, Any] = json.loads(result.read_text())
    used = [after[process] - before.get(process, 0.0) for process in sorted(after)]
    others = busy_after - busy_before - sum(used) - answers["cpu_seconds"]
    return answers, used, max(0.0, others / elapsed)


def _client_command(port: int, load: Load, result: Path) -> list[str]:
    options = {"port": port, "seconds": load.seconds, "connections": load.connections, "agents": load.agents}
    options |= {"rate": load.rate, "keep-every": KEEP_EVERY}
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, str(_CLIENT), str(load.requests), str(result), *flags]


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.steal - times.guest - times.guest_nice)


def _problems(answers: dict[str, Any], stored: int) -> list[str]:
    accepted = answers["outcomes"].get(ACCEPTED, 0)
    others = {outcome: count for outcome, count in answers["outcomes"].items() if outcome != ACCEPTED}
    found = [
        (not accepted, "no report was accepted"),
        (others, f"answers other than '{ACCEPTED}': {others}"),
        (answers["unanswered"], f"{answers['unanswered']} requests were not answered"),
        (answers["broken"], f"{len(answers['broken'])} connections broke, the first: {answers['broken'][:1]}"),
        (stored != accepted, f"{accepted} reports were accepted, but {stored} are in the database"),
    ]
    return [text for failed, text in found if failed]


def _wrong_verdicts(answers: dict[str, Any], load: Load, ring: Ring | None) -> list[str]:
    """Return problems of the kept answers; each has to be a verdict signed over the nonce of its report."""
    if ring is None:
        return []
    requests, problems = Requests(load.requests), []
    for number, answer in answers["kept"].items():
        nonce = canonical.parse_object(envelope.parse(requests.body(int(number))).data)["nonce"]
        try:
            verdict.unseal(answer.encode("latin-1"), ring, nonce)
        except Refusal as error:
            problems.append(f"the answer to request {number} is not a valid verdict: {error}")
    return problems[:3]
