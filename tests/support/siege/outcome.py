"""What happened in a siege, as values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from support.siege.agents import Answer

# How often each lie is sent at least, also on a slow machine. With several forms, each of them is sent.
_LIES = (
    "numbers", "reboots", "clones", "counters", "long names", "relays", "long lists", "new boots", "registrations",
    "clocks", "replays", "signatures", "hosts", "raw", "relayed ids", "peer queries", "junk for agents",
)  # fmt: skip
_CONNECTIONS = ("slow bodies", "slow heads", "idle connections", "idle connections to agents")
LEAST = dict.fromkeys(_LIES, 7) | dict.fromkeys(_CONNECTIONS, 50) | {"new ids": 100}


@dataclass(slots=True)
class Phase:
    """One phase: when it was (monotonic seconds), how the alarm of a stopped agent went, and what readers got.

    `opened_after` and `closed_after` are seconds from the stop and from the start of the agent, None: never. `bytes`
    has the greatest size of each list, `read_ms` the times of the requests for them, and `failed_reads` counts requests
    without such a list. `probes` counts the requests to the API of agents by whether they were answered in time.
    `waiting` counts the samples on the disk of each agent at the end. `cpu_seconds` is the processor
    time of the manager.
    """

    began: float
    ended: float = 0.0
    opened_after: float | None = None
    closed_after: float | None = None
    bytes: dict[str, int] = field(default_factory=dict)
    read_ms: list[float] = field(default_factory=list)
    failed_reads: int = 0
    probes: Counter[bool] = field(default_factory=Counter)
    waiting: dict[int, int] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """How long the phase was."""
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class LiarResult:
    """How many messages of each kind the liar sent, the answers by kind, and what it could read but must not."""

    sent: dict[str, int]
    answers: dict[str, int]
    leaks: list[str]

    @classmethod
    def read(cls, file: Path) -> LiarResult:
        """Read the file that the liar writes."""
        return cls(**json.loads(file.read_text())) if file.exists() else cls({}, {}, [])

    @property
    def missing(self) -> dict[str, int]:
        """The lies that were sent too rarely to show anything, with their counts."""
        return {lie: self.sent.get(lie, 0) for lie, least in LEAST.items() if self.sent.get(lie, 0) < least}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A siege: its phases, and what was found afterwards.

    `measured` and `waiting` are the labels of measurements of the simulated agents: all, and those still on a disk.
    `stored` counts the labels in the manager's database. `crashes` has the last words of agents that ended.
    `dropped` counts the samples that the real agents dropped. `answers` are those to the reports of each simulated
    agent. `logs` are the logs of all honest processes, and `failed_steps` the lines of the publisher about failures.
    """

    alone: Phase
    besieged: Phase
    liar: LiarResult
    measured: frozenset[str]
    stored: Counter[str]
    waiting: frozenset[str]
    crashes: Mapping[str, str]
    dropped: int
    answers: Mapping[int, list[Answer]]
    logs: Mapping[str, bytes]
    failed_steps: list[str]
    peak_rss: Mapping[str, int]

    @property
    def lost(self) -> frozenset[str]:
        """The measurements that are neither stored nor waiting."""
        return self.measured - self.waiting - set(self.stored)

    def answer_ms(self, phase: Phase) -> list[float]:
        """Return the times of the answers to honest reports in a phase."""
        everything = (answer for answers in self.answers.values() for answer in answers)
        return [each.took_ms for each in everything if phase.began <= each.at < phase.ended and each.status]

    def delivered(self, number: int, since: float, until: float) -> int:
        """Return how many reports an agent delivered between two times (monotonic seconds)."""
        return sum(each.status == 200 and since <= each.at < until for each in self.answers[number])

    def summary(self) -> str:
        """Return the figures for people."""
        lines = [self._phase("alone", self.alone), self._phase("beside the liar", self.besieged)]
        memory = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in self.peak_rss.items())
        lines.append(f"{len(self.measured)} measured, {len(self.lost)} lost; peak memory: {memory}")
        lines.append(f"crashed: {sorted(self.crashes)}; failed steps: {self.failed_steps[:3]}")
        lines += [f"sent: {self.liar.sent}", f"answers: {dict(sorted(self.liar.answers.items()))}"]
        return "\n".join((*lines, f"leaks: {sorted(set(self.liar.leaks))}"))

    def _phase(self, name: str, phase: Phase) -> str:
        times = self.answer_ms(phase) or [0.0]
        p95 = quantiles(times, n=20)[-1] if len(times) > 1 else 0.0
        return (
            f"{name}: {phase.seconds:.0f} s, {len(times)} answers, median {median(times):.1f} ms, p95 {p95:.1f} ms; "
            f"lists read in {median(phase.read_ms or [0]):.1f} ms (median), {phase.failed_reads} reads failed; alarm "
            f"opened after {phase.opened_after or -1:.1f} s, closed after {phase.closed_after or -1:.1f} s; bytes "
            f"{phase.bytes}; agents' API answered {phase.probes[True]} of {phase.probes.total()} requests; "
            f"at most {max(phase.waiting.values(), default=0)} samples wait on a disk; "
            f"the manager used {phase.cpu_seconds / phase.seconds:.2f} processors"
        )
