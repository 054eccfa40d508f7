"""Counts the project functions that one report enters, from the kernel's bytes to the manager's database.

Run it in a checkout, as root: PYTHONPATH=tests .venv/bin/python -m support.report_path [--list | --json]

The real agent and the real manager run in a network namespace that has a veth link and a WireGuard tunnel, and the
functions that every one of several reports enters are counted. That excludes start-up, and work that is due only now
and then, such as heartbeats.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support.agent_folder import PSK, keep_ring, ring_of
from support.agent_process import Daemon
from support.function_trace import ENTERED, LEFT, Function, Step, python, read
from support.manager import Manager
from support.netns import Namespace
from support.waiting import ENDLESS_SECONDS, wait_for
from support.wireguard import connected_namespaces, new_device

# The function whose run is one measuring cycle of the agent: from reading the kernel to the verdict.
CYCLE = "Reporter.cycle"
REPORTS = 8
# The first ones register the agent and fill caches.
_UNCOUNTED = 2
# The manager's writer finishes its round after it has answered.
_SETTLE_NS = 300_000_000


@dataclass(frozen=True, slots=True)
class ReportPath:
    """The functions that every counted report enters, in order of first entry.

    `samples` are the numbers of the samples in the manager's database; `late` counts those that arrived out of order,
    `waiting` those left on the agent's disk.
    """

    functions: tuple[Function, ...]
    samples: tuple[int, ...]
    late: int
    waiting: int

    def by_module(self) -> dict[str, list[Function]]:
        """Return the functions of each module, both in order of first entry."""
        modules: dict[str, list[Function]] = {}
        for function in self.functions:
            modules.setdefault(function.module, []).append(function)
        return modules

    def by_package(self) -> Counter[str]:
        """Return how many functions each package has, folders inside a distribution being packages too."""
        return Counter(function.module.rpartition(".")[0] for function in self.functions)


@dataclass(frozen=True, slots=True)
class Cycle:
    """One run of the agent's cycle: in this thread, between these moments."""

    process: int
    thread: int
    begin: int
    end: int

    def entered(self, steps: Iterable[Step]) -> list[Function]:
        """Return the functions that this report entered, in order, with repetitions."""
        return [step.function for step in steps if step.event == ENTERED and self._includes(step)]

    def _includes(self, step: Step) -> bool:
        if step.process == self.process:
            return step.thread == self.thread and self.begin <= step.at <= self.end
        return self.begin <= step.at <= self.end + _SETTLE_NS


def trace() -> ReportPath:
    """Run an agent and a manager until enough reports have arrived, and return their path.

    Skips, as tests do, if network namespaces or WireGuard devices cannot be created.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kattila-path-")))
        namespace = stack.enter_context(_node())
        traced = python(_made(folder / "trace"))
        manager = Manager(
            _made(folder / "manager"),
            ring=ring_of(PSK),
            workers=1,
            within=namespace,
            program=[*traced, "-m", "kattila_manager"],
        )
        stack.callback(manager.kill)
        manager.start()
        spool = _made(folder / "agent") / "spool"
        agent = _started(stack, spool.parent, namespace.command(*traced, "-m", "kattila_agent"), manager)
        _wait_for_reports(manager, agent, spool)
        agent.process.kill()
        agent.process.wait()
        rows = manager.rows("SELECT sample, sampled_at FROM reports ORDER BY sample")
        return ReportPath(
            functions=_common(read(folder / "trace")),
            samples=tuple(sample for sample, _ in rows),
            # The database has this time only for samples that arrived late.
            late=sum(sampled_at is not None for _, sampled_at in rows),
            waiting=_waiting(spool),
        )


def length(function: Function) -> int:
    """Return how many lines a function has, from its first decorator to its end."""
    for node in ast.walk(ast.parse(Path(function.path).read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == function.line:
                return (node.end_lineno or first) - first + 1
    raise LookupError(f"{function.path}:{function.line}: no function begins here")


def summary(path: ReportPath) -> dict[str, Any]:
    """Return the figures of a path, as `--json` prints them."""
    lengths = {f"{function.module}.{function.name}": length(function) for function in path.functions}
    longest = max(lengths, key=lengths.__getitem__)
    return {
        "functions": len(path.functions),
        "modules": len(path.by_module()),
        "packages": dict(sorted(path.by_package().items())),
        "lines": {
            "mean": round(statistics.mean(lengths.values()), 1),
            "median": statistics.median(lengths.values()),
            "longest": lengths[longest],
            "longest_function": longest,
        },
        "path": {module: [each.name for each in functions] for module, functions in path.by_module().items()},
    }


def as_text(found: dict[str, Any], *, with_path: bool) -> str:
    """Return a summary for people; `with_path` adds the functions of each module."""
    lines = found["lines"]
    text = [
        f"one report enters {found['functions']} functions in {found['modules']} modules",
        f"lines per function: mean {lines['mean']}, median {lines['median']:g}, "
        f"longest {lines['longest']} ({lines['longest_function']})",
        *(f"{count:5} {package}" for package, count in found["packages"].items()),
    ]
    if with_path:
        for module, names in found["path"].items():
            text += ["", f"{module} ({len(names)})", *(f"    {name}" for name in names)]
    return "\n".join(text)


def main() -> int:
    """Print the path; return 1 where it cannot be traced."""
    parser = argparse.ArgumentParser(prog="support.report_path", description=(__doc__ or "").partition("\n")[0])
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--list", action="store_true", help="also list the functions per module, in order of first entry")
    form.add_argument("--json", action="store_true", help="print all of it as JSON")
    flags = parser.parse_args()
    try:
        found = summary(trace())
    except pytest.skip.Exception as reason:
        print(f"report_path: {reason}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1) if flags.json else as_text(found, with_path=flags.list))
    return 0


@contextmanager
def _node() -> Iterator[Namespace]:
    """Yield the namespace of a node with loopback, a veth link with a default route, and a tunnel with one peer."""
    with connected_namespaces() as (namespace, other), new_device(namespace) as device, new_device(other) as peer:
        namespace.ip("route", "add", "default", "via", "192.0.2.2")
        namespace.ip("address", "add", "203.0.113.1/24", "dev", device.name)
        namespace.ip("link", "set", device.name, "up")
        words = ("endpoint", "192.0.2.2:51820", "allowed-ips", "203.0.113.2/32")
        device.set("peer", peer.public_key, *words)
        yield namespace


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _started(stack: ExitStack, folder: Path, program: Sequence[str], manager: Manager) -> Daemon:
    keep_ring(folder, PSK)
    settings = {
        "DNS": "kattila.example.org",
        "DNS_SERVER": "127.0.0.1:9",
        "MANAGER_URL": f"http://127.0.0.1:{manager.port}",
        "INTERVAL": "1",
    }
    agent = Daemon(folder, program=program, **settings)
    stack.callback(agent.process.wait)
    stack.callback(agent.process.kill)
    return agent


def _waiting(spool: Path) -> int:
    return len(list(spool.glob("[0-9]" * 16)))


def _wait_for_reports(manager: Manager, agent: Daemon, spool: Path) -> None:
    """Wait until more than the counted reports have arrived, and the agent has seen the last verdict."""

    def have_arrived() -> bool:
        assert agent.process.poll() is None, agent.log
        return manager.rows("SELECT count(*) FROM reports")[0][0] > REPORTS and not _waiting(spool)

    wait_for(have_arrived, lambda: f"{REPORTS} reports:\n{agent.log}\n{manager.log}", ENDLESS_SECONDS)


def _cycles(steps: Iterable[Step]) -> list[Cycle]:
    """Return the complete cycles of the agent."""
    at = [step for step in steps if step.function.name == CYCLE]
    return [
        Cycle(begin.process, begin.thread, begin.at, end.at)
        for begin, end in pairwise(at)
        if (begin.event, end.event) == (ENTERED, LEFT)
    ]


def _common(steps: Sequence[Step]) -> tuple[Function, ...]:
    cycles = _cycles(steps)[_UNCOUNTED:REPORTS]
    assert len(cycles) == REPORTS - _UNCOUNTED, f"no function is called {CYCLE}, or it did not run {REPORTS} times"
    entered = [dict.fromkeys(cycle.entered(steps)) for cycle in cycles]
    # The cycle with the fewest functions is the least disturbed, so it shows the order best.
    return tuple(function for function in min(entered, key=len) if all(function in each for each in entered))


if __name__ == "__main__":
    sys.exit(main())
