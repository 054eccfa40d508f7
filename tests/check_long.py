"""`make check-long`: runs make targets one after another with the full counts, and prints a summary.

A failed target does not stop the others. Exit codes: 0 all passed, 1 one failed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass

# Pytest's closing line, such as "=== 2 failed, 3514 passed in 333.21s (0:05:33) ===".
_CLOSING = re.compile(r"^=+ (\d+ (?:passed|failed|error|skipped).* in [\d.]+s.*?) =+$")


@dataclass(frozen=True)
class Stage:
    """One target that has run."""

    target: str
    passed: bool
    seconds: float
    closing: str

    def __str__(self) -> str:
        """Return its line of the summary."""
        return f"{self.target:12} {'passed' if self.passed else 'FAILED'} {self.seconds:6.0f} s  {self.closing}"


def run(target: str) -> Stage:
    """Run a make target and show its output; keep pytest's closing lines, or the last line."""
    print(f"--- make {target}", flush=True)
    began = time.monotonic()
    closing, last = [], deque([""], maxlen=1)
    with subprocess.Popen(
        ["make", "--no-print-directory", target],
        env=os.environ | {"KATTILA_COUNTS": "full"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last.append(line.strip() or last[0])
            closing += _CLOSING.findall(line.rstrip())
    return Stage(target, process.returncode == 0, time.monotonic() - began, "; ".join(closing) or last[0])


def main(targets: list[str]) -> int:
    """Run all targets and return the exit code."""
    stages = [run(target) for target in targets]
    print("--- summary of make check-long")
    for stage in stages:
        print(stage)
    return 0 if all(stage.passed for stage in stages) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
