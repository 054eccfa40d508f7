"""Runs the real agent with a wall clock that is off by the number of milliseconds in a file.

Network namespaces share the machine's clock, which no test may set. This replaces the one function of the agent that
reads the wall clock (`Runtime.now`). CLOCK_MONOTONIC and CLOCK_BOOTTIME stay those of the machine.

    python agent_with_clock.py FILE [ARGUMENT…]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from kattila_agent import __main__ as agent
from kattila_agent.runtime import Runtime


def set_clock(file: Path, offset_ms: int) -> None:
    """Set the clock offset of the agent that reads this file; the file is replaced atomically."""
    new_file = file.with_suffix(".new")
    new_file.write_text(str(offset_ms))
    new_file.rename(file)


def with_clock(runtime: Runtime, file: Path) -> Runtime:
    """Return the runtime with its wall clock changed by the offset in the file."""
    return replace(runtime, now=lambda: runtime.now() + int(file.read_text()))


if __name__ == "__main__":
    original, offset_file = agent._runtime, Path(sys.argv[1])
    agent._runtime = lambda: with_clock(original(), offset_file)
    sys.exit(agent.main(sys.argv[2:]))
